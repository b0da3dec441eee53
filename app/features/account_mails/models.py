"""The table `account_mails`: one row for each mail about an account, with the hash of its token."""

from datetime import datetime

from sqlalchemy import BigInteger, ForeignKey, Index, LargeBinary, String
from sqlalchemy.orm import Mapped, mapped_column

from app.features.users.models import User
from app.infra.database.base import Base
from app.infra.validation.fields import Choice


class Purpose(Choice):
    VERIFICATION = "verification"
    PASSWORD_RESET = "password_reset"
    ADDRESS_CHANGED = "address_changed"


class AccountMail(Base):
    """A mail about an account to `email`. A token in it works once, and is stored as its SHA-256.

    The token is one for this address and, if it resets the password, for this credential version.
    So it is refused after the account got another address or another password.
    """

    __tablename__ = "account_mails"

    user_id: Mapped[int] = mapped_column(ForeignKey(User.id, ondelete="CASCADE"))
    purpose: Mapped[Purpose]
    job_id: Mapped[int] = mapped_column(BigInteger)
    email: Mapped[str] = mapped_column(String(254))
    credential_version: Mapped[int]
    token_hash: Mapped[bytes | None] = mapped_column(LargeBinary, unique=True)
    expires_at: Mapped[datetime] = mapped_column(index=True)
    used_at: Mapped[datetime | None]


Index(None, AccountMail.user_id, AccountMail.purpose, AccountMail.created_at)
