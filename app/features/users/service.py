"""Accounts: what may be done with them, and what then holds."""

from sqlalchemy.exc import IntegrityError
from sqlalchemy.ext.asyncio import AsyncSession

from app.errors import Conflict, Forbidden, NotFound
from app.features.users import queries, tags
from app.features.users.models import UNIQUE_EMAIL, User
from app.features.users.schemas import UserCreate, UserUpdate
from app.infra.database.error_mapping import violated_constraint
from app.infra.security.passwords import Passwords
from coherent_cache import invalidate, shows


async def create_user(session: AsyncSession, passwords: Passwords, data: UserCreate) -> User:
    """Register an account. The password is hashed before the transaction takes a connection."""
    password_hash = await passwords.hash(data.password)
    user = await queries.insert_user(
        session, {"email": data.email, "name": data.name, "password_hash": password_hash}
    )
    if user is None:
        raise _email_taken()
    invalidate(session, tags.user(user.id))  # somebody may have been told that there is none
    return user


async def update_user(
    session: AsyncSession, passwords: Passwords, user: User, data: UserUpdate
) -> User:
    """Change one's own account. A new password makes every refresh token worthless.

    Passwords are checked and hashed before the transaction takes a connection.
    """
    changes = data.model_dump()
    current = changes.pop("current_password", None)
    if data.changes_credentials and not await passwords.verify(current, user.password_hash):
        raise Forbidden("The current password is wrong.", code="invalid_credentials")
    if (password := changes.pop("password", None)) is not None:
        changes["password_hash"] = await passwords.hash(password)
        changes["credential_version"] = user.credential_version + 1
    if not changes:
        return user
    try:
        updated = await queries.update_user(session, user, changes)
    except IntegrityError as error:
        if violated_constraint(error) != UNIQUE_EMAIL:
            raise
        raise _email_taken() from None
    if updated is None:
        raise Conflict("The account was changed at the same time: try again.")
    invalidate(session, tags.user(user.id))
    return updated


async def delete_user(session: AsyncSession, user: User) -> None:
    """Delete one's own account. Posts and comments stay, under the name "Deleted user"."""
    await queries.anonymise_user(session, user.id)
    invalidate(session, tags.user(user.id))


async def read_user(session: AsyncSession, user_id: int) -> User:
    """Return the user with this id, or raise `NotFound`."""
    shows(session, tags.user(user_id))
    user = await queries.get_user(session, user_id)
    if user is None:
        raise NotFound("There is no such user.")
    return user


def _email_taken() -> Conflict:
    return Conflict("There is an account with this e-mail address.", code="email_taken")
