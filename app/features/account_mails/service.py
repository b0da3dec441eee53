"""Verifies addresses and resets passwords, by tokens that were mailed."""

import secrets
from datetime import timedelta
from hashlib import sha256

from sqlalchemy.ext.asyncio import AsyncSession

from app.errors import Unauthenticated
from app.features.account_mails import queries
from app.features.account_mails.models import Purpose
from app.features.users import tags
from app.features.users.models import User
from app.infra.resources import ProcessResources
from coherent_cache import invalidate

LIFETIMES = {
    Purpose.VERIFICATION: timedelta(days=2),
    Purpose.PASSWORD_RESET: timedelta(minutes=30),
    Purpose.ADDRESS_CHANGED: timedelta(days=1),
}


async def issue_token(
    session: AsyncSession, user: User, purpose: Purpose, job_id: int
) -> str | None:
    """Return a token to mail, or None if the address got such a mail within the last minute.

    The account has to be locked.
    """
    if await queries.was_mailed(session, user, user.email, purpose, job_id):
        return None
    token = secrets.token_urlsafe(32)
    await queries.insert_mail(
        session,
        user,
        user.email,
        purpose,
        job_id,
        token_hash=_hash_token(token),
        lifetime=LIFETIMES[purpose],
    )
    return token


async def note_address_change(session: AsyncSession, user: User, email: str, job_id: int) -> bool:
    """Return whether to tell `email` that it was replaced. It gets one such mail in a minute.

    The account has to be locked.
    """
    purpose = Purpose.ADDRESS_CHANGED
    if await queries.was_mailed(session, user, email, purpose, job_id):
        return False
    await queries.insert_mail(
        session, user, email, purpose, job_id, token_hash=None, lifetime=LIFETIMES[purpose]
    )
    return True


async def verify_address(session: AsyncSession, token: str) -> None:
    """Mark the address of an account as verified. Raises `Unauthenticated`."""
    user = await queries.use_token(session, _hash_token(token), Purpose.VERIFICATION)
    if user is None or not await queries.set_verified(session, user):
        raise _invalid_token()
    invalidate(session, tags.user(user.id))


async def reset_password(resources: ProcessResources, token: str, password: str) -> None:
    """Replace the password of an account, and revoke all its tokens. Raises `Unauthenticated`.

    The address becomes verified too, because the token was mailed to it.
    The password is hashed for a valid token only, and while no connection is held.
    """
    token_hash, purpose = _hash_token(token), Purpose.PASSWORD_RESET
    async with resources.database.read() as session:
        if not await queries.is_valid(session, token_hash, purpose):
            raise _invalid_token()
    password_hash = await resources.passwords.hash(password)
    async with resources.database.transaction() as session:
        user = await queries.use_token(session, token_hash, purpose)
        if user is None or not await queries.reset_password(session, user, password_hash):
            raise _invalid_token()
        invalidate(session, tags.user(user.id))


def _hash_token(token: str) -> bytes:
    """Hash a token for storage. A fast hash is enough for 256 random bits."""
    return sha256(token.encode()).digest()


def _invalid_token() -> Unauthenticated:
    return Unauthenticated(
        "The token is not valid: it was used, or it has expired, or a newer change has replaced "
        "it. Ask for a new mail.",
        code="invalid_token",
    )
