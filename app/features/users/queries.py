"""SQL for users."""

from sqlalchemy import bindparam, delete, func, select, text, update
from sqlalchemy.dialects.postgresql import insert
from sqlalchemy.ext.asyncio import AsyncSession

from app.features.users.models import (
    AuthorRow,
    CallerRow,
    PublicUserRow,
    Role,
    User,
    UserRow,
)
from app.infra.database.base import Base
from app.infra.database.row_query import RowQuery, Source
from app.infra.database.rows import Columns
from app.infra.storage.stored_objects import StoredObject, release

AUTHOR_COLUMNS = Columns(AuthorRow, User)
BY_ID = select(User).where(User.id == bindparam("user_id"))
USER_BY_ID = RowQuery(Columns(UserRow, User), BY_ID)
CALLER_BY_ID = RowQuery(Columns(CallerRow, User), BY_ID)
PUBLIC_BY_ID = RowQuery(Columns(PublicUserRow, User), BY_ID)
BY_EMAIL = select(User).where(
    func.lower(User.email) == func.lower(bindparam("email")), User.deleted_at.is_(None)
)
# FOR SHARE: transactions that need the account can hold it together.
ACTIVE_LOCKED = (
    select(User.id)
    .where(User.id == bindparam("user_id"), User.deleted_at.is_(None))
    .with_for_update(read=True)
)
# Locks that foreign keys do not wait for. A row that is no admin's any more after the wait for its
# lock is left out.
ADMINS_LOCKED = (
    select(User.id)
    .where(User.role == Role.ADMIN, User.disabled.is_(False), User.deleted_at.is_(None))
    .order_by(User.id)
    .with_for_update(key_share=True)
)


def author_of(caller: CallerRow) -> AuthorRow:
    """Return the caller as the author of what the caller writes."""
    return AuthorRow(caller.id, caller.name, caller.avatar_url)


async def read_caller(source: Source, user_id: int) -> CallerRow | None:
    """Return the user with this id, even if deleted, to do what only this user may do."""
    return await CALLER_BY_ID.first(source, user_id=user_id)


async def read_account(source: Source, user_id: int) -> UserRow | None:
    """Return the account with this id, even if deleted."""
    return await USER_BY_ID.first(source, user_id=user_id)


async def get_public_user(session: AsyncSession, user_id: int) -> PublicUserRow | None:
    """Return what everybody may know of a user, even if deleted."""
    return await PUBLIC_BY_ID.first(session, user_id=user_id)


async def get_user_by_email(session: AsyncSession, email: str) -> User | None:
    """Return the account with this address, regardless of case."""
    return await session.scalar(BY_EMAIL, {"email": email})


async def lock_user_by_email(session: AsyncSession, email: str) -> User | None:
    """Return the account with this address, regardless of case, and lock it."""
    return await session.scalar(BY_EMAIL.with_for_update(key_share=True), {"email": email})


async def insert_user(session: AsyncSession, values: dict[str, str]) -> User | None:
    """Insert a user and return it, or None when the address is taken. Safe in a race."""
    statement = insert(User).on_conflict_do_nothing(
        index_elements=[func.lower(text("email"))], index_where=User.deleted_at.is_(None)
    )
    return await session.scalar(statement.values(values).returning(User))


async def update_user(
    session: AsyncSession, user: User | UserRow, values: dict[str, object]
) -> User | None:
    """Change an account and return it, or None if its password was changed or it was deleted.

    A new address also needs that the old one is still that of `user`, so that every address that is
    replaced is known to the caller.
    Raises `IntegrityError` for UNIQUE_EMAIL if another account has the new address.
    """
    statement = update(User).where(
        User.id == user.id,
        User.deleted_at.is_(None),
        User.credential_version == user.credential_version,
    )
    if "email" in values:
        statement = statement.where(User.email == user.email)
    return await session.scalar(statement.values(values).returning(User))


async def set_password_hash(session: AsyncSession, user: User, password_hash: str) -> None:
    """Store a new hash of the same password, unless the password has been changed meanwhile."""
    await session.execute(
        update(User)
        .where(User.id == user.id, User.password_hash == user.password_hash)
        .values(password_hash=password_hash, updated_at=User.updated_at)
    )


async def lock_active_user(session: AsyncSession, user_id: int) -> bool:
    """Lock the account until the transaction ends. Return False if it has been deleted."""
    return await session.scalar(ACTIVE_LOCKED, {"user_id": user_id}) is not None


async def lock_admins(session: AsyncSession) -> list[int]:
    """Return the ids of all admins who are not disabled, and lock them."""
    return list(await session.scalars(ADMINS_LOCKED))


async def anonymise_user(session: AsyncSession, user: User | UserRow) -> bool:
    """Remove everything personal from an account, and mark it as deleted.

    Return False if the account got another role since `user` was read.
    """
    statement = (
        update(User)
        .where(User.id == user.id, User.role == user.role)
        .values(
            email="",
            name="Deleted user",
            bio="",
            avatar_url=None,
            password_hash="",
            role=Role.USER,
            verified=False,
            credential_version=User.credential_version + 1,
            deleted_at=func.now(),
        )
        .returning(User.id)
    )
    return await session.scalar(statement) is not None


async def delete_owned_rows(session: AsyncSession, user_id: int) -> None:
    """Delete what references the user with ON DELETE CASCADE, in the tables of all features.

    The database does not do it, because the row of the user stays. Files of these rows are deleted
    by a job soon.
    """
    for table in reversed(Base.metadata.sorted_tables):
        files = [
            key.parent for key in table.foreign_keys if key.column.table is StoredObject.__table__
        ]
        for key in table.foreign_keys:
            if key.column.table is User.__table__ and key.ondelete == "CASCADE":
                owned = delete(table).where(key.parent == user_id)
                deleted = await session.execute(owned.returning(key.parent, *files))
                released = {one for _, *ids in deleted for one in ids if one is not None}
                await release(session, *released)
