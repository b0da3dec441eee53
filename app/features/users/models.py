"""The table `users`."""

from datetime import datetime
from typing import NamedTuple

from sqlalchemy import Computed, Index, String, func, text
from sqlalchemy.orm import Mapped, mapped_column

from app.infra.database.base import Base
from app.infra.validation.fields import Choice

UNIQUE_EMAIL = "uq_users_email"


class Role(Choice):
    USER = "user"
    ADMIN = "admin"


class User(Base):
    """An account. Email addresses are unique regardless of case.

    A new password, a reset, disabling and a deletion increase `credential_version`, which revokes
    the access tokens and the refresh tokens of older versions. `verified` says that the owner has
    received a mail at this address. A deleted account is anonymised. Its row stays as the author of
    what it published.
    """

    __tablename__ = "users"
    __table_args__ = (
        Index(
            UNIQUE_EMAIL,
            func.lower(text("email")),
            unique=True,
            postgresql_where=text("deleted_at IS NULL"),
        ),
        # For the list of accounts, which is ordered by address and searched by its beginning.
        *(
            Index(None, *columns, "email_key", "id", postgresql_where=text("deleted_at IS NULL"))
            for columns in ((), ("role",))
        ),
    )

    email: Mapped[str] = mapped_column(String(254))
    name: Mapped[str] = mapped_column(String(100))
    bio: Mapped[str] = mapped_column(String(500), server_default="")
    avatar_url: Mapped[str | None] = mapped_column(String(200))
    # The collation C orders by code points, so that all addresses with one beginning are a range.
    email_key: Mapped[str] = mapped_column(
        String(254, collation="C"), Computed("lower((email)::text)", persisted=True)
    )
    password_hash: Mapped[str] = mapped_column(String(255))
    role: Mapped[Role] = mapped_column(server_default=Role.USER)
    verified: Mapped[bool] = mapped_column(server_default=text("false"))
    disabled: Mapped[bool] = mapped_column(server_default=text("false"))
    credential_version: Mapped[int] = mapped_column(server_default="1")
    deleted_at: Mapped[datetime | None]
    updated_at: Mapped[datetime] = mapped_column(
        server_default=func.now(), onupdate=func.now(), sort_order=2
    )


class AuthorRow(NamedTuple):
    """Who wrote something."""

    id: int
    name: str
    avatar_url: str | None


class UserRow(NamedTuple):
    """An account that is read, with its address and credentials."""

    id: int
    name: str
    bio: str
    avatar_url: str | None
    created_at: datetime
    email: str
    password_hash: str
    role: Role
    verified: bool
    disabled: bool
    credential_version: int
    deleted_at: datetime | None
    updated_at: datetime


class CallerRow(NamedTuple):
    """The calling user: what decides whether and what the user may do, and what everybody may see.

    There is no address in it, and no hash.
    """

    id: int
    name: str
    bio: str
    avatar_url: str | None
    created_at: datetime
    role: Role
    verified: bool
    disabled: bool
    credential_version: int
    deleted_at: datetime | None


class PublicUserRow(NamedTuple):
    """What everybody may know of a user."""

    id: int
    name: str
    bio: str
    avatar_url: str | None
    created_at: datetime
