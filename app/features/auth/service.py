"""How you get a token, get the next one, and give it up."""

import secrets
from contextlib import suppress
from datetime import timedelta
from hashlib import sha256
from uuid import uuid4

from sqlalchemy.ext.asyncio import AsyncSession

from app.errors import Unauthenticated, Unavailable
from app.features.auth import queries
from app.features.auth.queries import Family
from app.features.auth.schemas import TokenRead
from app.features.users.queries import get_user_by_email, set_password_hash
from app.infra.dependencies import ProcessResources
from app.infra.security.passwords import PasswordMatch
from app.infra.security.settings import AuthSettings
from app.infra.validation.fields import normalise_email


async def log_in(held: ProcessResources, email: str, password: str) -> TokenRead:
    """Exchange an e-mail address and a password for tokens, or raise `Unauthenticated`.

    An unknown account costs the same time and gives the same answer as a wrong password. No
    connection is held while the password is hashed.
    """
    async with held.database.read() as session:
        user = await get_user_by_email(session, normalise_email(email) or email)
    match = await held.passwords.verify(password, user.password_hash if user else None)
    if user is None or not match:
        raise Unauthenticated(
            "The e-mail address or the password is wrong.", code="invalid_credentials"
        )
    outdated = match is PasswordMatch.AS_TYPED or held.passwords.is_outdated(user.password_hash)
    new_hash = await _new_hash(held, password) if outdated else None
    async with held.database.transaction() as session:
        if new_hash is not None:
            await set_password_hash(session, user, new_hash)
        return await _issue_tokens(session, held, Family(uuid4(), user.id, user.credential_version))


async def refresh(held: ProcessResources, token: str) -> TokenRead:
    """Exchange a refresh token for new tokens, or raise `Unauthenticated`.

    A token works once. Its second use means that there are two holders, of whom one is a thief: the
    whole family is revoked, for good before the answer. Source: RFC 9700, §4.14.2.
    """
    async with held.database.transaction() as session:
        family = await queries.use_token(session, _digest(token))
        if family is not None:
            return await _issue_tokens(session, held, family)
        await revoke(session, token)
    raise Unauthenticated("The refresh token is not valid.")


async def revoke(session: AsyncSession, token: str) -> None:
    """Make every token of this token's family worthless. An unknown token changes nothing."""
    family_id = await queries.get_family_id(session, _digest(token))
    if family_id is not None:
        await queries.delete_family(session, family_id)


async def _new_hash(held: ProcessResources, password: str) -> str | None:
    """Hash a password again while it is known, or return None when the hashing queue is full."""
    with suppress(Unavailable):  # the next login will do it
        return await held.passwords.hash(password)
    return None


async def _issue_tokens(session: AsyncSession, held: ProcessResources, family: Family) -> TokenRead:
    await queries.prune_tokens(session)
    refresh_token = secrets.token_urlsafe(32)
    lifetime = timedelta(seconds=held.settings[AuthSettings].refresh_token_seconds)
    await queries.insert_token(session, family, _digest(refresh_token), lifetime)
    return TokenRead(
        access_token=held.access_tokens.issue(family.user_id),
        refresh_token=refresh_token,
        expires_in=held.settings[AuthSettings].access_token_seconds,
    )


def _digest(token: str) -> bytes:
    """Hash a token for storage. It has 256 random bits, so a fast hash is enough."""
    return sha256(token.encode()).digest()
