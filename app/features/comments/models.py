"""The table `comments`."""

from datetime import datetime
from typing import NamedTuple

from sqlalchemy import ForeignKey, Index, Text, func
from sqlalchemy.orm import Mapped, mapped_column, relationship

from app.features.posts.models import Post
from app.features.users.models import AuthorRow, User
from app.infra.database.base import Base


class Comment(Base):
    """A comment on a post. It is deleted with the post."""

    __tablename__ = "comments"

    # Not now(), which is the start of the transaction. A comment is inserted while its post is
    # locked, so with the current time the comments of a post become visible in order.
    created_at: Mapped[datetime] = mapped_column(server_default=func.clock_timestamp())
    post_id: Mapped[int] = mapped_column(ForeignKey(Post.id, ondelete="CASCADE"))
    author_id: Mapped[int] = mapped_column(ForeignKey(User.id))
    body: Mapped[str] = mapped_column(Text)

    author: Mapped[User] = relationship(lazy="raise")


# For the list of comments. It also serves the foreign key to the post.
Index(None, Comment.post_id, Comment.created_at, Comment.id)
# For the stream of comments, which reads the comments after a given id.
Index(None, Comment.post_id, Comment.id)
# For all comments of a user. It also serves the foreign key to the author.
Index(None, Comment.author_id, Comment.id)


class CommentRow(NamedTuple):
    """A comment that is read, with its author."""

    id: int
    post_id: int
    author: AuthorRow
    body: str
    created_at: datetime
