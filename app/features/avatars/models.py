"""The table `avatars`."""

from sqlalchemy import ForeignKey, String
from sqlalchemy.orm import Mapped, mapped_column

from app.features.users.models import User
from app.infra.database.base import Base
from app.infra.storage.stored_objects import StoredObject


class Avatar(Base):
    """The avatar of a user. Users with the same picture share one object of the store.

    `avatar_url` of the user is made from `sha256`, so that lists show it without another join.
    """

    __tablename__ = "avatars"

    user_id: Mapped[int] = mapped_column(ForeignKey(User.id, ondelete="CASCADE"), unique=True)
    object_id: Mapped[int] = mapped_column(ForeignKey(StoredObject.id), index=True)
    sha256: Mapped[str] = mapped_column(String(64))
