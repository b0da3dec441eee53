"""The table `posts`."""

from datetime import datetime
from typing import NamedTuple

from sqlalchemy import ForeignKey, Index, String, Text, func
from sqlalchemy.orm import Mapped, mapped_column, relationship

from app.features.users.models import AuthorRow, User
from app.infra.database.base import Base


class Post(Base):
    """`comment_count` is maintained by the feature `comments`."""

    __tablename__ = "posts"

    author_id: Mapped[int] = mapped_column(ForeignKey("users.id"))
    title: Mapped[str] = mapped_column(String(200))
    body: Mapped[str] = mapped_column(Text)
    comment_count: Mapped[int] = mapped_column(server_default="0")
    version: Mapped[int] = mapped_column(server_default="1")
    updated_at: Mapped[datetime] = mapped_column(
        server_default=func.now(), onupdate=func.now(), sort_order=2
    )

    author: Mapped[User] = relationship(lazy="raise")


# One index for each list of posts. The second one also serves the foreign key.
Index(None, Post.created_at, Post.id)
Index(None, Post.author_id, Post.created_at, Post.id)


class PostRow(NamedTuple):
    """A post that is read, with its author."""

    id: int
    author: AuthorRow
    title: str
    body: str
    comment_count: int
    version: int
    created_at: datetime
    updated_at: datetime
