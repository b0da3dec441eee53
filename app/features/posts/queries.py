"""SQL for posts."""

from sqlalchemy import bindparam, delete, select
from sqlalchemy.ext.asyncio import AsyncSession
from sqlalchemy.orm import joinedload

from app.features.posts.models import Post, PostRow
from app.features.users.models import CallerRow, User
from app.features.users.queries import AUTHOR_COLUMNS, author_of
from app.infra.database.export import Export
from app.infra.database.pagination import KeysetList
from app.infra.database.row_insert import RowInsert
from app.infra.database.row_query import RowQuery
from app.infra.database.rows import Columns

POST_COLUMNS = Columns(PostRow, Post, author=AUTHOR_COLUMNS)
POSTS = select(Post)
BY_ID = POSTS.where(Post.id == bindparam("post_id"))
POST_BY_ID = RowQuery(POST_COLUMNS, BY_ID)
NEW_POST = RowInsert(POST_COLUMNS)
# To change a post. Load the author with a join, and only the columns that are shown.
WITH_AUTHOR = joinedload(Post.author, innerjoin=True).load_only(
    User.id, User.name, User.avatar_url, raiseload=True
)
BY_ID_LOCKED = BY_ID.options(WITH_AUTHOR).with_for_update(of=Post)

ALL_POSTS = KeysetList("posts", POST_COLUMNS, POSTS, newest_first=True)
POSTS_BY_AUTHOR = KeysetList(
    "posts", POST_COLUMNS, POSTS.where(Post.author_id == bindparam("author_id")), newest_first=True
)

EXPORTED_POSTS = Export("posts", POSTS.join(Post.author), Post, POST_COLUMNS.by_name())


async def get_post(session: AsyncSession, post_id: int) -> PostRow | None:
    return await POST_BY_ID.first(session, post_id=post_id)


async def lock_post(session: AsyncSession, post_id: int) -> Post | None:
    """Return the post with its author, and lock it until the transaction ends."""
    return await session.scalar(BY_ID_LOCKED, {"post_id": post_id})


async def insert_post(session: AsyncSession, author: CallerRow, title: str, body: str) -> PostRow:
    return await NEW_POST.one(
        session, author=author_of(author), author_id=author.id, title=title, body=body
    )


async def delete_post(session: AsyncSession, post_id: int) -> None:
    """Delete a post. Its comments are deleted by the foreign key."""
    await session.execute(delete(Post).where(Post.id == post_id))
