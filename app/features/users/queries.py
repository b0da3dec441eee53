"""SQL for users."""

from sqlalchemy import bindparam, func, select, text, update
from sqlalchemy.dialects.postgresql import insert
from sqlalchemy.ext.asyncio import AsyncSession

from app.features.users.models import User

BY_ID = select(User).where(User.id == bindparam("user_id"))
BY_EMAIL = select(User).where(
    func.lower(User.email) == func.lower(bindparam("email")), User.deleted_at.is_(None)
)


async def get_user(session: AsyncSession, user_id: int) -> User | None:
    """Return the user with this id, even if deleted."""
    return await session.scalar(BY_ID, {"user_id": user_id})


async def get_user_by_email(session: AsyncSession, email: str) -> User | None:
    """Return the account with this address, regardless of case."""
    return await session.scalar(BY_EMAIL, {"email": email})


async def insert_user(session: AsyncSession, values: dict[str, str]) -> User | None:
    """Insert a user and return it, or None when the address is taken. Safe in a race."""
    statement = insert(User).on_conflict_do_nothing(
        index_elements=[func.lower(text("email"))], index_where=User.deleted_at.is_(None)
    )
    return await session.scalar(statement.values(values).returning(User))


async def update_user(session: AsyncSession, user: User, values: dict[str, object]) -> User | None:
    """Change an account and return it, or None if its password was changed or it was deleted.

    Raises `IntegrityError` for UNIQUE_EMAIL if another account has the new address.
    """
    statement = (
        update(User)
        .where(
            User.id == user.id,
            User.deleted_at.is_(None),
            User.credential_version == user.credential_version,
        )
        .values(values)
        .returning(User)
    )
    return await session.scalar(statement)


async def set_password_hash(session: AsyncSession, user: User, password_hash: str) -> None:
    """Store a new hash of the same password, unless the password has been changed meanwhile."""
    await session.execute(
        update(User)
        .where(User.id == user.id, User.password_hash == user.password_hash)
        .values(password_hash=password_hash, updated_at=User.updated_at)
    )


async def anonymise_user(session: AsyncSession, user_id: int) -> None:
    """Remove everything personal from an account, and mark it as deleted."""
    await session.execute(
        update(User)
        .where(User.id == user_id)
        .values(
            email="",
            name="Deleted user",
            bio="",
            avatar_url=None,
            password_hash="",
            credential_version=User.credential_version + 1,
            deleted_at=func.now(),
        )
    )
