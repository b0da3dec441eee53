"""All SQL on refresh tokens."""

from datetime import timedelta
from uuid import UUID

from sqlalchemy import func, insert
from sqlalchemy.ext.asyncio import AsyncSession

from app.features.auth.models import RefreshToken


async def insert_token(
    session: AsyncSession, *, user_id: int, family_id: UUID, token_hash: bytes, lifetime: timedelta
) -> None:
    """Insert a token that expires `lifetime` from now, by the database's clock."""
    await session.execute(
        insert(RefreshToken).values(
            user_id=user_id,
            family_id=family_id,
            token_hash=token_hash,
            expires_at=func.now() + lifetime,
        )
    )
