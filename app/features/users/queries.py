"""All SQL on users."""

from sqlalchemy import bindparam, func, select
from sqlalchemy.dialects.postgresql import insert
from sqlalchemy.ext.asyncio import AsyncSession

from app.features.users.models import User

BY_ID = select(User).where(User.id == bindparam("user_id"))
BY_EMAIL = select(User).where(func.lower(User.email) == func.lower(bindparam("email")))


async def get_user(session: AsyncSession, user_id: int) -> User | None:
    """Return the user with this id."""
    return await session.scalar(BY_ID, {"user_id": user_id})


async def get_user_by_email(session: AsyncSession, email: str) -> User | None:
    """Return the user with this address, without regard to case."""
    return await session.scalar(BY_EMAIL, {"email": email})


async def insert_user(session: AsyncSession, values: dict[str, str]) -> User | None:
    """Insert a user and return it, or None when the address is taken, also in a race."""
    statement = insert(User).values(values).on_conflict_do_nothing().returning(User)
    return await session.scalar(statement)
