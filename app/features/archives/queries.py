"""SQL for archives, and for the posts and comments in them."""

from collections.abc import Sequence
from datetime import UTC, datetime, timedelta

from sqlalchemy import RowMapping, bindparam, delete, func, or_, select, tuple_, update
from sqlalchemy.dialects.postgresql import insert
from sqlalchemy.ext.asyncio import AsyncSession

from app.features.archives.models import UNFINISHED, Archive, ArchiveStatus
from app.features.avatars.models import Avatar
from app.features.comments.models import Comment
from app.features.posts.models import Post

BATCH = 100  # rows: at most 8 MB of posts
BEGINNING = {"after": datetime(1, 1, 1, tzinfo=UTC), "after_id": 0}
Rows = Sequence[RowMapping]

OWN = select(Archive).where(
    Archive.id == bindparam("archive_id"),
    Archive.user_id == bindparam("user_id"),
    or_(Archive.expires_at.is_(None), Archive.expires_at > func.now()),
)
LAST_DONE = select(func.max(Archive.created_at)).where(
    Archive.user_id == bindparam("user_id"), Archive.status == ArchiveStatus.DONE
)
UNFINISHED_IDS = select(Archive.id).where(Archive.status.in_(UNFINISHED))
EXPIRED = (
    delete(Archive)
    .where(Archive.expires_at <= func.now())
    .returning(Archive.object_id)
    .execution_options(synchronize_session=False)
)
POSTS = (
    select(Post.id, Post.title, Post.body, Post.created_at, Post.updated_at)
    .where(Post.author_id == bindparam("user_id"))
    .where(tuple_(Post.created_at, Post.id) > tuple_(bindparam("after"), bindparam("after_id")))
    .order_by(Post.created_at, Post.id)
    .limit(BATCH)
)
COMMENTS = (
    select(Comment.id, Comment.post_id, Comment.body, Comment.created_at)
    .where(Comment.author_id == bindparam("user_id"), Comment.id > bindparam("after_id"))
    .order_by(Comment.id)
    .limit(BATCH)
)
COUNT = select(
    select(func.count()).where(Post.author_id == bindparam("user_id")).scalar_subquery()
    + select(func.count()).where(Comment.author_id == bindparam("user_id")).scalar_subquery()
)
PICTURE = select(Avatar.sha256).where(Avatar.user_id == bindparam("user_id"))


async def insert_archive(session: AsyncSession, user_id: int) -> Archive | None:
    """Insert an archive. Return None if another archive of the user is queued or running."""
    statement = insert(Archive).values(user_id=user_id).on_conflict_do_nothing()
    return await session.scalar(statement.returning(Archive))


async def get_archive(session: AsyncSession, user_id: int, archive_id: int) -> Archive | None:
    """Return an archive of this user that has not expired."""
    return await session.scalar(OWN, {"user_id": user_id, "archive_id": archive_id})


async def get_last_done(session: AsyncSession, user_id: int) -> datetime | None:
    """Return when the newest archive of the user was asked for that is done."""
    return await session.scalar(LAST_DONE, {"user_id": user_id})


async def set_progress(session: AsyncSession, archive_id: int, progress: int) -> bool:
    """Return False if the archive has been deleted, or is finished."""
    values = {"status": ArchiveStatus.RUNNING, "progress": progress}
    return await _change_unfinished(session, archive_id, values)


async def set_done(
    session: AsyncSession, archive_id: int, object_id: int, key: str, sha256: str, kept: timedelta
) -> bool:
    values = {"status": ArchiveStatus.DONE, "progress": 100, "object_id": object_id}
    values |= {"key": key, "sha256": sha256, "expires_at": func.now() + kept}
    return await _change_unfinished(session, archive_id, values)


async def set_failed(session: AsyncSession, archive_id: int, kept: timedelta) -> bool:
    values = {"status": ArchiveStatus.FAILED, "expires_at": func.now() + kept}
    return await _change_unfinished(session, archive_id, values)


async def _change_unfinished(
    session: AsyncSession, archive_id: int, values: dict[str, object]
) -> bool:
    statement = (
        update(Archive)
        .where(Archive.id == archive_id, Archive.status.in_(UNFINISHED))
        .values(values)
        .returning(Archive.id)
        .execution_options(synchronize_session=False)
    )
    return await session.scalar(statement) is not None


async def list_unfinished(session: AsyncSession) -> Sequence[int]:
    return (await session.scalars(UNFINISHED_IDS)).all()


async def delete_expired(session: AsyncSession) -> list[int]:
    """Delete archives that have expired. Return the ids of their objects."""
    return [one for one in await session.scalars(EXPIRED) if one is not None]


async def count_rows(session: AsyncSession, user_id: int) -> int:
    """Return how many posts and comments a user has."""
    return await session.scalar(COUNT, {"user_id": user_id}) or 0


async def list_posts(session: AsyncSession, user_id: int, after: Rows) -> Rows:
    """Return the posts of a user that follow those in `after`, oldest first."""
    last = {"after": after[-1]["created_at"], "after_id": after[-1]["id"]} if after else BEGINNING
    return (await session.execute(POSTS, {"user_id": user_id, **last})).mappings().all()


async def list_comments(session: AsyncSession, user_id: int, after: Rows) -> Rows:
    """Return the comments of a user that follow those in `after`, oldest first."""
    last = after[-1]["id"] if after else 0
    return (
        (await session.execute(COMMENTS, {"user_id": user_id, "after_id": last})).mappings().all()
    )


async def get_picture(session: AsyncSession, user_id: int) -> str | None:
    """Return the hash that names the avatar of a user."""
    return await session.scalar(PICTURE, {"user_id": user_id})
