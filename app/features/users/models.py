"""The table `users`: an account, and what others see of it."""

from datetime import datetime

from sqlalchemy import Index, String, func, text
from sqlalchemy.orm import Mapped, mapped_column

from app.infra.database.base import Base

UNIQUE_EMAIL = "uq_users_email"


class User(Base):
    """Somebody with an account. E-mail addresses are unique without regard to case.

    `credential_version` moves with each new password and with the deletion: whatever was given out
    under an older one is worthless. A deleted account is anonymous and keeps its row, because posts
    and comments keep their author.
    """

    __tablename__ = "users"
    __table_args__ = (
        Index(
            UNIQUE_EMAIL,
            func.lower(text("email")),
            unique=True,
            postgresql_where=text("deleted_at IS NULL"),
        ),
    )

    email: Mapped[str] = mapped_column(String(254))
    name: Mapped[str] = mapped_column(String(100))
    bio: Mapped[str] = mapped_column(String(500), server_default="")
    avatar_url: Mapped[str | None] = mapped_column(String(200))
    password_hash: Mapped[str] = mapped_column(String(255))
    credential_version: Mapped[int] = mapped_column(server_default="1")
    deleted_at: Mapped[datetime | None]
    updated_at: Mapped[datetime] = mapped_column(
        server_default=func.now(), onupdate=func.now(), sort_order=2
    )
