"""Makes idempotency keys."""

from dataclasses import dataclass

from app.features.idempotency.queries import insert_key
from app.features.users.models import User
from tests.features.users.factory import UserFactory


@dataclass(frozen=True)
class KeyFactory(UserFactory):
    """Makes keys, and users."""

    async def key(self, owner: User, key: str = "a key") -> None:
        """Make a key with an empty answer."""
        async with self.resources.database.transaction() as session:
            values = {"user_id": owner.id, "key": key, "fingerprint": b"", "status": 204}
            assert await insert_key(session, {**values, "headers": [], "body": b""})
