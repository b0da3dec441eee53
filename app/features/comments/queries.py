"""SQL for comments, and for `comment_count` of posts."""

from collections.abc import Sequence

from sqlalchemy import BigInteger, any_, bindparam, delete, func, select, update
from sqlalchemy.dialects.postgresql import ARRAY
from sqlalchemy.ext.asyncio import AsyncSession

from app.features.comments.models import Comment, CommentRow
from app.features.posts.models import Post
from app.features.users.models import CallerRow
from app.features.users.queries import AUTHOR_COLUMNS, author_of
from app.infra.database.pagination import KeysetList
from app.infra.database.row_insert import RowInsert
from app.infra.database.row_query import RowQuery
from app.infra.database.rows import Columns

COMMENT_COLUMNS = Columns(CommentRow, Comment, author=AUTHOR_COLUMNS)
NEW_COMMENT = RowInsert(COMMENT_COLUMNS)
OF_POST = select(Comment).where(Comment.post_id == bindparam("post_id"))
BY_ID = select(Comment).where(Comment.id == bindparam("comment_id"))
POST_EXISTS = select(Post.id).where(Post.id == bindparam("post_id"))
COUNT_CHANGE = (
    update(Post)
    .where(Post.id == bindparam("of_post"))
    # Setting `updated_at` to itself disables `onupdate`: a comment is not an edit of the post.
    .values(comment_count=Post.comment_count + bindparam("change"), updated_at=Post.updated_at)
    .returning(Post.id)
)

NEXT_COMMENTS = RowQuery(
    COMMENT_COLUMNS, OF_POST.where(Comment.id > bindparam("after")).order_by(Comment.id)
)
NEWEST_ID = (
    select(func.max(Comment.id)).where(Comment.post_id == Post.id).correlate(Post).scalar_subquery()
)
NEWEST_IDS = select(Post.id, func.coalesce(NEWEST_ID, 0).label("newest")).where(
    Post.id == any_(bindparam("post_ids", type_=ARRAY(BigInteger)))
)

COMMENTS_OF_POST = KeysetList("comments", COMMENT_COLUMNS, OF_POST, newest_first=False)


async def post_exists(session: AsyncSession, post_id: int) -> bool:
    return await session.scalar(POST_EXISTS, {"post_id": post_id}) is not None


async def change_count(session: AsyncSession, post_id: int, change: int) -> bool:
    """Change `comment_count` and lock the post. Return False if there is no such post."""
    parameters = {"of_post": post_id, "change": change}
    return await session.scalar(COUNT_CHANGE, parameters) is not None


async def next_comments(
    session: AsyncSession, post_id: int, after: int, most: int
) -> Sequence[CommentRow]:
    """Return the first comments of a post after the one with an id."""
    return await NEXT_COMMENTS.all(session, limit=most, post_id=post_id, after=after)


async def newest_ids(session: AsyncSession, post_ids: Sequence[int]) -> dict[int, int]:
    """Return the id of the newest comment of each post that exists, 0 if it has none."""
    rows = await session.execute(NEWEST_IDS, {"post_ids": list(post_ids)})
    return {row.id: row.newest for row in rows}


async def get_comment(session: AsyncSession, comment_id: int) -> Comment | None:
    """Return the comment, without its author."""
    return await session.scalar(BY_ID, {"comment_id": comment_id})


async def insert_comment(
    session: AsyncSession, post_id: int, author: CallerRow, body: str
) -> CommentRow:
    """Insert a comment. The caller holds the lock of `change_count`."""
    return await NEW_COMMENT.one(
        session, author=author_of(author), author_id=author.id, post_id=post_id, body=body
    )


async def delete_comment(session: AsyncSession, comment_id: int) -> bool:
    """Delete a comment. Return False if it was deleted concurrently."""
    statement = delete(Comment).where(Comment.id == comment_id).returning(Comment.id)
    return await session.scalar(statement) is not None
