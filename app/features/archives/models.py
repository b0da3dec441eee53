"""The table `archives`."""

from datetime import datetime

from sqlalchemy import ForeignKey, Index, String
from sqlalchemy.orm import Mapped, mapped_column

from app.features.users.models import User
from app.infra.database.base import Base
from app.infra.storage.stored_objects import StoredObject
from app.infra.validation.fields import Choice


class ArchiveStatus(Choice):
    QUEUED = "queued"
    RUNNING = "running"
    DONE = "done"
    FAILED = "failed"


UNFINISHED = (ArchiveStatus.QUEUED, ArchiveStatus.RUNNING)


class Archive(Base):
    """A zip of what a user has written. `progress` is in per cent.

    A user has at most one archive that is queued or running. An archive that is done has an object.
    It is deleted when it expires.
    """

    __tablename__ = "archives"

    user_id: Mapped[int] = mapped_column(ForeignKey(User.id, ondelete="CASCADE"))
    object_id: Mapped[int | None] = mapped_column(ForeignKey(StoredObject.id), index=True)
    status: Mapped[ArchiveStatus] = mapped_column(server_default=ArchiveStatus.QUEUED)
    progress: Mapped[int] = mapped_column(server_default="0")
    key: Mapped[str | None] = mapped_column(String(200))
    sha256: Mapped[str | None] = mapped_column(String(64))
    expires_at: Mapped[datetime | None] = mapped_column(index=True)


Index(None, Archive.user_id, Archive.created_at)
ONE_AT_A_TIME = Index(
    "uq_archives_user_id",
    Archive.user_id,
    unique=True,
    postgresql_where=Archive.status.in_(UNFINISHED),
)
