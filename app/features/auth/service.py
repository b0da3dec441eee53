"""Log in, refresh tokens, log out."""

import secrets
from datetime import timedelta
from hashlib import sha256
from uuid import uuid4

from sqlalchemy.ext.asyncio import AsyncSession

from app.errors import Unauthenticated
from app.features.auth import queries
from app.features.auth.queries import TokenFamily
from app.features.auth.schemas import TokenRead
from app.features.users.models import User
from app.features.users.queries import get_user_by_email, lock_active_user, set_password_hash
from app.features.users.service import PASSWORD_FAILURES
from app.infra.resources import ProcessResources
from app.infra.security.passwords import PasswordMatch
from app.infra.security.settings import AuthSettings
from app.infra.validation.fields import normalise_email


async def log_in(resources: ProcessResources, email: str, password: str) -> TokenRead:
    """Exchange an e-mail address and a password for tokens, or raise `Unauthenticated`.

    An unknown account takes the same time and gives the same answer as a wrong password, and has
    the same limit on failed logins. So does a disabled account. No database connection is held
    while the password is hashed.
    """
    email = normalise_email(email) or email
    async with resources.rate_limiter.counting_failures(PASSWORD_FAILURES, email):
        user, match = await _verify(resources, email, password)
    outdated = match is PasswordMatch.AS_TYPED or resources.passwords.is_outdated(
        user.password_hash
    )
    new_hash = await resources.passwords.rehash(password) if outdated else None
    async with resources.database.transaction() as session:
        if new_hash is not None:
            await set_password_hash(session, user, new_hash)
        if not await lock_active_user(session, user.id):  # it was deleted meanwhile
            raise _wrong_credentials()
        return await _issue_tokens(
            session, resources, TokenFamily(uuid4(), user.id, user.credential_version)
        )


async def _verify(
    resources: ProcessResources, email: str, password: str
) -> tuple[User, PasswordMatch]:
    async with resources.database.read() as session:
        user = await get_user_by_email(session, email)
    match = await resources.passwords.verify(password, user.password_hash if user else None)
    if user is None or not match or user.disabled:
        raise _wrong_credentials()
    return user, match


def _wrong_credentials() -> Unauthenticated:
    return Unauthenticated(
        "The e-mail address or the password is wrong.", code="invalid_credentials"
    )


async def refresh(resources: ProcessResources, token: str) -> TokenRead:
    """Exchange a refresh token for new tokens, or raise `Unauthenticated`.

    A token works once. If it is used a second time, it was stolen, and the whole family is revoked
    (RFC 9700, §4.14.2).
    """
    async with resources.database.transaction() as session:
        family = await queries.consume_token(session, _hash_token(token))
        if family is not None:
            return await _issue_tokens(session, resources, family)
        await revoke(session, token)
    raise Unauthenticated("The refresh token is not valid.")


async def revoke(session: AsyncSession, token: str) -> None:
    """Revoke every token of this token's family. An unknown token changes nothing."""
    family_id = await queries.get_family_id(session, _hash_token(token))
    if family_id is not None:
        await queries.delete_family(session, family_id)


async def _issue_tokens(
    session: AsyncSession, resources: ProcessResources, family: TokenFamily
) -> TokenRead:
    refresh_token = secrets.token_urlsafe(32)
    lifetime = timedelta(seconds=resources.settings[AuthSettings].refresh_token_seconds)
    await queries.insert_token(session, family, _hash_token(refresh_token), lifetime)
    return TokenRead(
        access_token=resources.access_tokens.issue(family.user_id, family.credential_version),
        refresh_token=refresh_token,
        expires_in=resources.settings[AuthSettings].access_token_seconds,
    )


def _hash_token(token: str) -> bytes:
    """Hash a token for storage. A fast hash is enough for 256 random bits."""
    return sha256(token.encode()).digest()
