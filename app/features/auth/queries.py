"""SQL for refresh tokens."""

from dataclasses import dataclass
from datetime import timedelta
from uuid import UUID

from sqlalchemy import delete, func, insert, select, update
from sqlalchemy.ext.asyncio import AsyncSession

from app.features.auth.models import RefreshToken
from app.features.users.models import User

EXPIRED_BATCH_SIZE = 10_000


@dataclass(frozen=True, slots=True)
class TokenFamily:
    """The tokens that one login led to: each refresh adds one."""

    id: UUID
    user_id: int
    credential_version: int


async def insert_token(
    session: AsyncSession, family: TokenFamily, token_hash: bytes, lifetime: timedelta
) -> None:
    """Insert a token that expires after `lifetime`, by the clock of the database."""
    await session.execute(
        insert(RefreshToken).values(
            user_id=family.user_id,
            family_id=family.id,
            credential_version=family.credential_version,
            token_hash=token_hash,
            expires_at=func.now() + lifetime,
        )
    )


async def consume_token(session: AsyncSession, token_hash: bytes) -> TokenFamily | None:
    """Mark a token as used and return its family, or None when the token is not valid."""
    statement = (
        update(RefreshToken)
        .where(
            RefreshToken.token_hash == token_hash,
            RefreshToken.used_at.is_(None),
            RefreshToken.expires_at > func.now(),
            RefreshToken.user_id == User.id,
            RefreshToken.credential_version == User.credential_version,
        )
        .values(used_at=func.now())
        .returning(RefreshToken.family_id, RefreshToken.user_id, RefreshToken.credential_version)
    )
    row = (await session.execute(statement)).one_or_none()
    return None if row is None else TokenFamily(*row)


async def get_family_id(session: AsyncSession, token_hash: bytes) -> UUID | None:
    """Return the family of a token, whether the token was used or not."""
    return await session.scalar(
        select(RefreshToken.family_id).where(RefreshToken.token_hash == token_hash)
    )


async def delete_family(session: AsyncSession, family_id: UUID) -> None:
    """Delete all tokens of a family, also a token that a concurrent refresh inserts meanwhile."""
    statement = delete(RefreshToken).where(RefreshToken.family_id == family_id)
    # The first DELETE waits for a concurrent refresh, but does not see the token that it adds.
    while (await session.execute(statement.returning(RefreshToken.id))).first() is not None:
        pass


async def delete_expired_tokens(session: AsyncSession) -> int:
    """Delete a batch of expired tokens, and return how many. Concurrent calls delete others."""
    expired = (
        select(RefreshToken.id)
        .where(RefreshToken.expires_at < func.now())
        .order_by(RefreshToken.expires_at)
        .limit(EXPIRED_BATCH_SIZE)
        .with_for_update(skip_locked=True)
    )
    statement = delete(RefreshToken).where(RefreshToken.id.in_(expired))
    return len((await session.scalars(statement.returning(RefreshToken.id))).all())
