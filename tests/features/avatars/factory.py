"""Makes avatars."""

from dataclasses import dataclass
from hashlib import sha256

from app.features.avatars.service import Picture, object_key, set_avatar, url_of
from app.features.users.models import User
from app.infra.storage.stored_objects import reserve
from tests.features.users.factory import UserFactory


@dataclass(frozen=True)
class AvatarFactory(UserFactory):
    """Makes avatars, and users."""

    async def avatar(self, owner: User, content: bytes | None = None) -> str:
        """Store a file as the avatar of a user, as it is. Return the hash that names it."""
        content = b"the picture of user %d" % owner.id if content is None else content
        digest = sha256(content).hexdigest()
        object_id = await reserve(self.resources.database, object_key(digest), 3_600)
        await self.resources.objects.put(object_key(digest), content)
        async with self.resources.database.transaction() as session:
            url = url_of(self.resources.settings, digest)
            await set_avatar(session, owner, Picture(object_id, digest), url)
        return digest
