"""Makes drafts."""

from dataclasses import dataclass
from itertools import count

from app.features.drafts.models import Draft, DraftStatus
from app.features.users.models import User
from tests.factory import minute
from tests.features.users.factory import UserFactory

NUMBER = count(1)


@dataclass(frozen=True)
class DraftFactory(UserFactory):
    """Makes drafts, and users."""

    async def draft(self, owner: User | None = None, **values: object) -> Draft:
        """Make a draft. Its title is a new one."""
        owner = owner or await self.user()
        values = {"title": f"Draft {next(NUMBER)}", "body": "A body", **values}
        values = {"status": DraftStatus.DRAFT, **values}
        async with self.resources.database.transaction() as session:
            session.add(draft := Draft(owner_id=owner.id, **values))
        return draft

    async def drafts(self, number: int, owner: User, **values: object) -> list[Draft]:
        """Make drafts, each one minute younger than the one before. Every third pair is a tie."""
        return [await self.draft(owner, created_at=minute(i), **values) for i in range(number)]
