"""All SQL on refresh tokens."""

from dataclasses import dataclass
from datetime import timedelta
from uuid import UUID

from sqlalchemy import delete, func, insert, select, update
from sqlalchemy.ext.asyncio import AsyncSession

from app.features.auth.models import RefreshToken
from app.features.users.models import User

PRUNED_AT_ONCE = 100


@dataclass(frozen=True, slots=True)
class Family:
    """What the tokens of one login have in common."""

    id: UUID
    user_id: int
    credential_version: int


async def insert_token(
    session: AsyncSession, family: Family, token_hash: bytes, lifetime: timedelta
) -> None:
    """Insert a token that expires `lifetime` from now, by the database's clock."""
    await session.execute(
        insert(RefreshToken).values(
            user_id=family.user_id,
            family_id=family.id,
            credential_version=family.credential_version,
            token_hash=token_hash,
            expires_at=func.now() + lifetime,
        )
    )


async def use_token(session: AsyncSession, token_hash: bytes) -> Family | None:
    """Use up a token and return its family, or None when it is not, or no longer, good."""
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
    return None if row is None else Family(*row)


async def get_family_id(session: AsyncSession, token_hash: bytes) -> UUID | None:
    """Return the family of a token, used or not."""
    return await session.scalar(
        select(RefreshToken.family_id).where(RefreshToken.token_hash == token_hash)
    )


async def delete_family(session: AsyncSession, family_id: UUID) -> None:
    """Delete every token of a family, one that is being added at this moment too."""
    statement = delete(RefreshToken).where(RefreshToken.family_id == family_id)
    # The first pass waits for whoever is using one of the tokens, and does not see what they add.
    while (await session.execute(statement.returning(RefreshToken.id))).first() is not None:
        pass


async def prune_tokens(session: AsyncSession) -> None:
    """Delete some expired tokens, and let others do so at the same time."""
    expired = (
        select(RefreshToken.id)
        .where(RefreshToken.expires_at < func.now())
        .order_by(RefreshToken.expires_at)
        .limit(PRUNED_AT_ONCE)
        .with_for_update(skip_locked=True)
    )
    await session.execute(delete(RefreshToken).where(RefreshToken.id.in_(expired)))
