"""Makes comments."""

from dataclasses import dataclass

from app.features.comments.models import Comment
from app.features.posts import tags as posts
from app.features.posts.models import Post
from app.features.users.models import User
from coherent_cache import invalidate
from tests.factory import minute
from tests.features.posts.factory import PostFactory


@dataclass(frozen=True)
class CommentFactory(PostFactory):
    """Makes comments, posts and users."""

    async def comment(
        self, post: Post | None = None, author: User | None = None, **values: object
    ) -> Comment:
        """Make a comment, and count it in its post."""
        post = post or await self.post()
        author = author or await self.user()
        comment = Comment(post_id=post.id, author_id=author.id, **{"body": "A comment", **values})
        async with self.resources.database.transaction() as session:
            session.add(comment)
            (await session.get_one(Post, post.id)).comment_count += 1
            invalidate(session, posts.post(post.id))
        return comment

    async def comments(self, number: int, post: Post | None = None) -> list[Comment]:
        """Make comments on one post, each one minute younger than the one before, with ties."""
        post = post or await self.post()
        author = await self.user()
        return [await self.comment(post, author, created_at=minute(i)) for i in range(number)]
