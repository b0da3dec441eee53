"""Makes rows with as few words as a test needs."""

from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from itertools import count

from app.features.comments.models import Comment
from app.features.posts import tags as posts
from app.features.posts.models import Post
from app.features.users import tags as users
from app.features.users.models import User
from app.infra.dependencies import ProcessResources
from coherent_cache import invalidate

PASSWORD = "correct horse battery"
NUMBER = count(1)
MORNING = datetime(2026, 1, 1, tzinfo=UTC)


@dataclass(frozen=True)
class Factory:
    """Commits what it makes, and returns it."""

    resources: ProcessResources

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
            invalidate(session, users.user(user.id))
        return user

    async def post(self, author: User | None = None, **values: object) -> Post:
        """Make a post."""
        author = author or await self.user()
        values = {"title": "A title", "body": "A body", **values}
        async with self.resources.database.transaction() as session:
            session.add(post := Post(author_id=author.id, **values))
            await session.flush()
            invalidate(session, posts.post(post.id), posts.NEW_POSTS, posts.new_posts_by(author.id))
        return post

    async def posts(self, number: int, author: User | None = None) -> list[Post]:
        """Make posts, each a minute younger than the one before; every third pair is a tie."""
        author = author or await self.user()
        return [
            await self.post(author, title=f"Post {i}", created_at=_minute(i)) for i in range(number)
        ]

    async def comment(
        self, post: Post | None = None, author: User | None = None, **values: object
    ) -> Comment:
        """Make a comment, and count it."""
        post = post or await self.post()
        author = author or await self.user()
        comment = Comment(post_id=post.id, author_id=author.id, **{"body": "A comment", **values})
        async with self.resources.database.transaction() as session:
            session.add(comment)
            (await session.get_one(Post, post.id)).comment_count += 1
            invalidate(session, posts.post(post.id))
        return comment

    async def comments(self, number: int, post: Post | None = None) -> list[Comment]:
        """Make comments on one post, each a minute younger than the one before, with ties."""
        post = post or await self.post()
        author = await self.user()
        return [await self.comment(post, author, created_at=_minute(i)) for i in range(number)]

    def headers(self, user: User) -> dict[str, str]:
        """Return the headers of a request that `user` makes."""
        return {"Authorization": f"Bearer {self.resources.access_tokens.issue(user.id)}"}


def _minute(number: int) -> datetime:
    """Return a time at which, now and then, two rows were made at once."""
    return MORNING + timedelta(minutes=number - (number % 3 == 1))
