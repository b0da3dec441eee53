"""The table `comments`."""

from datetime import datetime

from sqlalchemy import ForeignKey, Index, Text, func
from sqlalchemy.orm import Mapped, mapped_column, relationship

from app.features.posts.models import Post
from app.features.users.models import User
from app.infra.database.base import Base


class Comment(Base):
    """What somebody said about a post. It goes when its post goes."""

    __tablename__ = "comments"

    # Not now(), which is when the transaction began: a comment is inserted while the row of its
    # post is locked, so by the clock the comments of a post appear in the order of the list.
    created_at: Mapped[datetime] = mapped_column(server_default=func.clock_timestamp())
    post_id: Mapped[int] = mapped_column(ForeignKey(Post.id, ondelete="CASCADE"))
    author_id: Mapped[int] = mapped_column(ForeignKey(User.id), index=True)
    body: Mapped[str] = mapped_column(Text)

    author: Mapped[User] = relationship(lazy="raise")


# The order in which comments are listed; it serves the foreign key to the post too.
Index(None, Comment.post_id, Comment.created_at, Comment.id)
