"""A user of the Valkey of all tests, who can lose permissions."""

from urllib.parse import urlsplit, urlunsplit

from redis.asyncio import Redis


class ValkeyUser:
    def __init__(self, admin: Redis, name: str) -> None:
        self._admin, self._name = admin, name

    async def allow_all_but(self, *rules: str) -> None:
        """Grant everything except what these rules of ACL SETUSER take away."""
        rules = ("reset", "on", ">password", "~*", "&*", "+@all", *rules)
        await self._admin.execute_command("ACL", "SETUSER", self._name, *rules)

    async def delete(self) -> None:
        await self._admin.execute_command("ACL", "DELUSER", self._name)

    def url(self, valkey_url: str) -> str:
        """Return the URL with which this user logs in."""
        url = urlsplit(valkey_url)
        return urlunsplit(url._replace(netloc=f"{self._name}:password@{url.hostname}:{url.port}"))
