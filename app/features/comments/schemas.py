"""Requests and responses for comments."""

from datetime import datetime
from typing import Annotated

from pydantic import BaseModel, ConfigDict, Field

from app.features.users.schemas import Author
from app.infra.validation.fields import Input, Text
from app.infra.validation.page_schema import PageRead


class CommentCreate(Input):
    """A new comment."""

    model_config = ConfigDict(json_schema_extra={"examples": [{"body": "Well said."}]})

    body: Annotated[Text, Field(min_length=1, max_length=5_000)]


class CommentRead(BaseModel):
    """A comment with its author."""

    model_config = ConfigDict(title="Comment")

    id: int
    post_id: int
    author: Author
    body: str
    created_at: datetime


class CommentPage(PageRead[CommentRead]):
    """A page of comments, oldest first."""
