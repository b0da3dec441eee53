"""The table `drafts`."""

from datetime import date, datetime
from typing import NamedTuple

from sqlalchemy import ForeignKey, Index, String, Text, UniqueConstraint, func
from sqlalchemy.orm import Mapped, mapped_column

from app.infra.database.base import Base
from app.infra.validation.fields import Choice

UNIQUE_TITLE = "uq_drafts_owner_id_title"


class DraftStatus(Choice):
    """A draft with a date is scheduled."""

    DRAFT = "draft"
    SCHEDULED = "scheduled"
    PUBLISHED = "published"


class Draft(Base):
    """A draft belongs to one user. It is deleted with the account of its owner."""

    __tablename__ = "drafts"
    __table_args__ = (UniqueConstraint("owner_id", "title", name=UNIQUE_TITLE),)

    owner_id: Mapped[int] = mapped_column(ForeignKey("users.id", ondelete="CASCADE"))
    title: Mapped[str] = mapped_column(String(200))
    body: Mapped[str] = mapped_column(Text)
    status: Mapped[DraftStatus]
    publish_on: Mapped[date | None]
    post_id: Mapped[int | None] = mapped_column(
        ForeignKey("posts.id", ondelete="SET NULL"), index=True
    )
    version: Mapped[int] = mapped_column(server_default="1")
    updated_at: Mapped[datetime] = mapped_column(
        server_default=func.now(), onupdate=func.now(), sort_order=2
    )


# One index for each list of drafts. The first one also serves the foreign key to the owner.
Index(None, Draft.owner_id, Draft.created_at, Draft.id)
Index(None, Draft.owner_id, Draft.status, Draft.created_at, Draft.id)
# The drafts that a job publishes.
DUE_INDEX = Index(
    None, Draft.publish_on, Draft.id, postgresql_where=Draft.status == DraftStatus.SCHEDULED
)


class DraftRow(NamedTuple):
    """A draft that is read."""

    id: int
    title: str
    body: str
    status: DraftStatus
    publish_on: date | None
    post_id: int | None
    version: int
    created_at: datetime
    updated_at: datetime
