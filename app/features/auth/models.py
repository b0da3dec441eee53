"""The table `refresh_tokens`: one row for each token that was issued and has not expired."""

from datetime import datetime
from uuid import UUID

from sqlalchemy import ForeignKey, LargeBinary
from sqlalchemy.orm import Mapped, mapped_column

from app.features.users.models import User
from app.infra.database.base import Base


class RefreshToken(Base):
    """A refresh token, stored as its SHA-256. The tokens of one login are a family.

    A used token stays until it expires, so that a second use, which proves a theft, is noticed.
    """

    __tablename__ = "refresh_tokens"

    user_id: Mapped[int] = mapped_column(ForeignKey(User.id, ondelete="CASCADE"), index=True)
    family_id: Mapped[UUID] = mapped_column(index=True)
    token_hash: Mapped[bytes] = mapped_column(LargeBinary, unique=True)
    expires_at: Mapped[datetime] = mapped_column(index=True)
    used_at: Mapped[datetime | None]
    credential_version: Mapped[int]
