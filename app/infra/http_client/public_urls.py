"""Calls of URLs that users have entered, such as webhooks and links."""

import asyncio

import orjson
from aiohttp import ClientSession
from pydantic_core import to_jsonable_python
from yarl import URL

from app.infra.http_client.deadline import end_of_call
from app.infra.http_client.exchange import Call, Reply, exchange, measured
from app.infra.http_client.failures import UpstreamFailed, UrlRefused
from app.infra.http_client.settings import HttpClientSettings

SCHEMES = ("http", "https")
NOT_A_PUBLIC_SERVER = ("not_public", "unresolved")


class PublicUrls:
    """Calls servers on the internet, and none in our own network.

    Each call raises `UrlRefused` if the URL or a redirect leads to no public server, and
    `UpstreamFailed` if there is no success. Nothing is tried again. The servers learn neither the
    id of the request nor its trace.
    """

    def __init__(self, session: ClientSession, settings: HttpClientSettings, name: str) -> None:
        self.name = name
        self._session = session
        self._settings = settings
        self._ports = frozenset(map(int, settings.public_ports.split(",")))

    async def get(self, url: str, *, redirects: int = 0) -> Reply:
        """GET a URL. Follow up to so many redirects, each of which is checked like the URL."""
        return await self._call(Call("GET", self._checked(url)), redirects)

    async def post_json(self, url: str, body: object) -> Reply:
        """Send `body`. A redirect is a failure."""
        content = orjson.dumps(body, default=to_jsonable_python)
        return await self._call(Call("POST", self._checked(url), body=content), 0)

    async def _call(self, call: Call, redirects: int) -> Reply:
        try:
            return await self._follow(call, redirects, end_of_call(self._settings.total_seconds))
        except UpstreamFailed as error:
            if error.reason in NOT_A_PUBLIC_SERVER:
                raise UrlRefused from None
            raise

    async def _follow(self, call: Call, redirects: int, until: float) -> Reply:
        while True:
            with measured(self.name):
                reply = await self._exchange(call, until)
            location = reply.headers.get("Location")
            if reply.failure == "redirect" and location and redirects:
                redirects -= 1
                call = Call(call.method, self._checked(location, call.url))
                continue
            if reply.failure is not None:
                raise UpstreamFailed(self.name, reply.failure, reply.status)
            return reply

    async def _exchange(self, call: Call, until: float) -> Reply:
        try:
            async with asyncio.timeout_at(until):
                return await exchange(self._session, self.name, call, self._settings.body_bytes)
        except TimeoutError:
            raise UpstreamFailed(self.name, "timeout") from None

    def _checked(self, text: str, base: URL | None = None) -> URL:
        """Parse a URL, or the target of a redirect from `base`.

        This checks the form only. The connector checks the address.
        """
        try:
            url = URL(text) if base is None else base.join(URL(text))
            is_accepted = url.scheme in SCHEMES and bool(url.host) and url.port in self._ports
        except (ValueError, IndexError):  # yarl raises the second one for http://[::1]@
            raise UrlRefused from None
        if not is_accepted or url.user is not None or url.password is not None:
            raise UrlRefused
        return url
