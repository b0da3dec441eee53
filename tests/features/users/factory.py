"""Makes users."""

from dataclasses import dataclass
from itertools import count

from app.features.users import queries, tags
from app.features.users.models import CallerRow, User
from coherent_cache import invalidate
from tests.factory import Factory

PASSWORD = "correct horse battery"
NUMBER = count(1)


@dataclass(frozen=True)
class UserFactory(Factory):
    """Makes users."""

    async def user(self, **values: object) -> User:
        """Make a user whose password is PASSWORD."""
        number = next(NUMBER)
        values = {
            "email": f"user{number}@example.com",
            "name": f"User {number}",
            "password_hash": await self.resources.passwords.hash(PASSWORD),
            **values,
        }
        async with self.resources.database.transaction() as session:
            session.add(user := User(**values))
            await session.flush()
            invalidate(session, tags.user(user.id))
        return user

    async def caller(self, user: User) -> CallerRow:
        """Return what `CurrentUser` is in a request of `user`."""
        async with self.resources.database.read() as session:
            caller = await queries.read_caller(session, user.id)
        assert caller is not None
        return caller

    def headers(self, user: User) -> dict[str, str]:
        """Return the headers of a request that `user` makes."""
        token = self.resources.access_tokens.issue(user.id, user.credential_version)
        return {"Authorization": f"Bearer {token}"}
