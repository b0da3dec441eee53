"""SQL for avatars, and for `avatar_url` of users."""

from collections.abc import Sequence

from sqlalchemy import String, bindparam, delete, func, select, update
from sqlalchemy.dialects.postgresql import insert
from sqlalchemy.ext.asyncio import AsyncSession

from app.features.avatars.models import Avatar
from app.features.users.models import User

SET_URL = (
    update(User)
    .where(User.id == bindparam("of_user"), User.deleted_at.is_(None))
    .values(avatar_url=bindparam("url"))
    .returning(User.id)
    .execution_options(synchronize_session=False)
)
OBJECT_OF_USER = select(Avatar.object_id).where(Avatar.user_id == bindparam("user_id"))
URL = bindparam("before", type_=String) + Avatar.sha256 + bindparam("after", type_=String)
WITH_OTHER_URL = (
    select(User.id)
    .join(Avatar, Avatar.user_id == User.id)
    .where(User.avatar_url.is_distinct_from(URL))
    .limit(bindparam("most"))
    .with_for_update(of=User, skip_locked=True)
)
CORRECT_URL = (
    update(User)
    .where(User.id == Avatar.user_id, User.id.in_(WITH_OTHER_URL))
    .values(avatar_url=URL, updated_at=User.updated_at)
    .returning(User.id)
    .execution_options(synchronize_session=False)
)


async def set_url(session: AsyncSession, user_id: int, url: str | None) -> bool:
    """Set the URL, and lock the account. Return False if the account has been deleted."""
    parameters = {"of_user": user_id, "url": url}
    return await session.scalar(SET_URL, parameters) is not None


async def get_object_id(session: AsyncSession, user_id: int) -> int | None:
    return await session.scalar(OBJECT_OF_USER, {"user_id": user_id})


async def put_avatar(session: AsyncSession, user_id: int, object_id: int, sha256: str) -> None:
    """Insert the avatar of a user, or replace it."""
    values = {"object_id": object_id, "sha256": sha256}
    statement = insert(Avatar).values(user_id=user_id, **values)
    statement = statement.on_conflict_do_update(
        index_elements=[Avatar.user_id], set_={**values, "created_at": func.now()}
    )
    await session.execute(statement)


async def delete_avatar(session: AsyncSession, user_id: int) -> None:
    await session.execute(delete(Avatar).where(Avatar.user_id == user_id))


async def correct_urls(session: AsyncSession, before: str, after: str, most: int) -> Sequence[int]:
    """Set the URLs that are not `before` + hash + `after`. Return the ids of these users."""
    parameters = {"before": before, "after": after, "most": most}
    return (await session.scalars(CORRECT_URL, parameters)).all()
