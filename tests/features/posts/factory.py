"""Makes posts."""

from dataclasses import dataclass

from app.features.posts import tags
from app.features.posts.models import Post
from app.features.users.models import User
from coherent_cache import invalidate
from tests.factory import minute
from tests.features.users.factory import UserFactory


@dataclass(frozen=True)
class PostFactory(UserFactory):
    """Makes posts, and users."""

    async def post(self, author: User | None = None, **values: object) -> Post:
        """Make a post."""
        author = author or await self.user()
        values = {"title": "A title", "body": "A body", **values}
        async with self.resources.database.transaction() as session:
            session.add(post := Post(author_id=author.id, **values))
            await session.flush()
            invalidate(session, tags.post(post.id), tags.NEW_POSTS, tags.new_posts_by(author.id))
        return post

    async def posts(self, number: int, author: User | None = None) -> list[Post]:
        """Make posts, each one minute younger than the one before. Every third pair is a tie."""
        author = author or await self.user()
        return [
            await self.post(author, title=f"Post {i}", created_at=minute(i)) for i in range(number)
        ]
