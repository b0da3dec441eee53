"""How you get a token."""

import secrets
from datetime import timedelta
from hashlib import sha256
from uuid import UUID, uuid4

from sqlalchemy.ext.asyncio import AsyncSession

from app.errors import Unauthenticated
from app.features.auth import queries
from app.features.auth.schemas import TokenRead
from app.features.users.queries import get_user_by_email
from app.infra.resources import Resources


async def log_in(held: Resources, email: str, password: str) -> TokenRead:
    """Exchange an e-mail address and a password for tokens, or raise `Unauthenticated`.

    An unknown account costs the same time and gives the same answer as a wrong password. No
    connection is held while the password is hashed.
    """
    async with held.database.read() as session:
        user = await get_user_by_email(session, email)
    matches = await held.passwords.verify(password, user.password_hash if user else None)
    if user is None or not matches:
        raise Unauthenticated(
            "The e-mail address or the password is wrong.", code="invalid_credentials"
        )
    async with held.database.transaction() as session:
        return await _issue_tokens(session, held, user.id, family_id=uuid4())


async def _issue_tokens(
    session: AsyncSession, held: Resources, user_id: int, *, family_id: UUID
) -> TokenRead:
    refresh_token = secrets.token_urlsafe(32)
    await queries.insert_token(
        session,
        user_id=user_id,
        family_id=family_id,
        token_hash=_digest(refresh_token),
        lifetime=timedelta(seconds=held.settings.auth.refresh_token_seconds),
    )
    return TokenRead(
        access_token=held.access_tokens.issue(user_id),
        refresh_token=refresh_token,
        expires_in=held.settings.auth.access_token_seconds,
    )


def _digest(token: str) -> bytes:
    """Hash a token for storage. It has 256 random bits, so a fast hash is enough."""
    return sha256(token.encode()).digest()
