"""Accounts: what may be done with them, and what then holds."""

from sqlalchemy.ext.asyncio import AsyncSession

from app.errors import Conflict, NotFound
from app.features.users import queries
from app.features.users.models import User
from app.features.users.schemas import UserCreate
from app.infra.security import Passwords


async def create_user(session: AsyncSession, passwords: Passwords, data: UserCreate) -> User:
    """Register an account. The password is hashed before the transaction takes a connection."""
    password_hash = await passwords.hash(data.password)
    user = await queries.insert_user(
        session, {"email": data.email, "name": data.name, "password_hash": password_hash}
    )
    if user is None:
        raise Conflict("There is an account with this e-mail address.", code="email_taken")
    return user


async def read_user(session: AsyncSession, user_id: int) -> User:
    """Return the user with this id, or raise `NotFound`."""
    user = await queries.get_user(session, user_id)
    if user is None:
        raise NotFound("There is no such user.")
    return user
