"""The table `idempotency_keys`: the answers that may be sent again."""

from sqlalchemy import ForeignKey, Index, LargeBinary, SmallInteger, String
from sqlalchemy.dialects.postgresql import JSONB
from sqlalchemy.orm import Mapped, mapped_column

from app.features.users.models import User
from app.infra.database.base import Base

MAX_KEY_LENGTH = 255


class IdempotencyKey(Base):
    """A key of one user, and the successful answer to the request that it was sent with.

    `fingerprint` is the SHA-256 of the method, the path with its query, and the body.
    """

    __tablename__ = "idempotency_keys"

    user_id: Mapped[int] = mapped_column(ForeignKey(User.id, ondelete="CASCADE"))
    key: Mapped[str] = mapped_column(String(MAX_KEY_LENGTH))
    fingerprint: Mapped[bytes] = mapped_column(LargeBinary)
    status: Mapped[int] = mapped_column(SmallInteger)
    headers: Mapped[list[list[str]]] = mapped_column(JSONB)
    body: Mapped[bytes] = mapped_column(LargeBinary)


Index(None, IdempotencyKey.user_id, IdempotencyKey.key, unique=True)
Index(None, IdempotencyKey.created_at)
