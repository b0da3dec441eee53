"""SQL for posts."""

from sqlalchemy import bindparam, delete, select
from sqlalchemy.ext.asyncio import AsyncSession
from sqlalchemy.orm import joinedload

from app.features.posts.models import Post
from app.features.users.models import User
from app.infra.database.export import Export
from app.infra.database.pagination import KeysetList

# Load the author with a join, and only the columns that are shown.
WITH_AUTHOR = joinedload(Post.author, innerjoin=True).load_only(
    User.id, User.name, User.avatar_url, raiseload=True
)
POSTS = select(Post).options(WITH_AUTHOR)
BY_ID = POSTS.where(Post.id == bindparam("post_id"))
BY_ID_LOCKED = BY_ID.with_for_update(of=Post)

ALL_POSTS = KeysetList("posts", POSTS, Post, newest_first=True)
POSTS_BY_AUTHOR = KeysetList(
    "posts", POSTS.where(Post.author_id == bindparam("author_id")), Post, newest_first=True
)

# The fields of `PostRead`.
EXPORTED_POSTS = Export(
    "posts",
    select(Post).join(Post.author),
    Post,
    {
        "id": Post.id,
        "author": {"id": User.id, "name": User.name, "avatar_url": User.avatar_url},
        "title": Post.title,
        "body": Post.body,
        "comment_count": Post.comment_count,
        "version": Post.version,
        "created_at": Post.created_at,
        "updated_at": Post.updated_at,
    },
)


async def get_post(session: AsyncSession, post_id: int) -> Post | None:
    return await session.scalar(BY_ID, {"post_id": post_id})


async def lock_post(session: AsyncSession, post_id: int) -> Post | None:
    """Return the post with its author, and lock it until the transaction ends."""
    return await session.scalar(BY_ID_LOCKED, {"post_id": post_id})


async def insert_post(session: AsyncSession, author: User, title: str, body: str) -> Post:
    post = Post(author_id=author.id, title=title, body=body)
    session.add(post)
    await session.flush()
    return post


async def delete_post(session: AsyncSession, post_id: int) -> None:
    """Delete a post. Its comments are deleted by the foreign key."""
    await session.execute(delete(Post).where(Post.id == post_id))
