"""The table `users`."""

from datetime import datetime

from sqlalchemy import Index, String, func, text
from sqlalchemy.orm import Mapped, mapped_column

from app.infra.database.base import Base

UNIQUE_EMAIL = "uq_users_email"


class User(Base):
    """An account. Email addresses are unique regardless of case.

    A new password and a deletion increase `credential_version`, which invalidates refresh tokens of
    older versions. A deleted account is anonymised. Its row stays as the author of what it
    published.
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
