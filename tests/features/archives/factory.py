"""Makes archives."""

from dataclasses import dataclass
from datetime import UTC, datetime, timedelta

from app.features.archives.models import Archive, ArchiveStatus
from app.features.users.models import User
from app.infra.storage.stored_objects import reserve
from tests.features.comments.factory import CommentFactory

DAY = timedelta(days=1)


@dataclass(frozen=True)
class ArchiveFactory(CommentFactory):
    """Makes archives, and what is in them."""

    async def archive(self, owner: User, content: bytes = b"zip", **values: object) -> Archive:
        """Make an archive that is done. It was asked for two days ago."""
        now = datetime.now(UTC)
        values = {
            "status": ArchiveStatus.DONE,
            "progress": 100,
            "sha256": "0" * 64,
            "created_at": now - 2 * DAY,
            "expires_at": now + 5 * DAY,
            "key": f"archives/test-{owner.id}.zip",
            **values,
        }
        key = str(values["key"])
        values.setdefault("object_id", await reserve(self.resources.database, key, 3_600))
        await self.resources.objects.put(key, content)
        async with self.resources.database.transaction() as session:
            session.add(archive := Archive(user_id=owner.id, **values))
        return archive
