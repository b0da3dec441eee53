"""Requests and responses of `/v1/posts`."""

from datetime import datetime
from typing import Annotated

from pydantic import MISSING, BaseModel, ConfigDict, Field

from app.features.users.schemas import Author
from app.infra.validation.fields import Input, Text
from app.infra.validation.page_schema import PageRead

Title = Annotated[Text, Field(min_length=1, max_length=200)]
Body = Annotated[Text, Field(min_length=1, max_length=20_000)]


class PostCreate(Input):
    """A new post."""

    model_config = ConfigDict(
        json_schema_extra={"examples": [{"title": "Hello", "body": "My first post"}]}
    )

    title: Title
    body: Body


class PostUpdate(Input):
    """Changes to a post. Fields that are left out keep their values."""

    model_config = ConfigDict(json_schema_extra={"examples": [{"title": "Hello again"}]})

    title: Title | MISSING = MISSING
    body: Body | MISSING = MISSING


class PostRead(BaseModel):
    """A post with its author. `version` moves with each edit of the title or the body."""

    model_config = ConfigDict(title="Post")

    id: int
    author: Author
    title: str
    body: str
    comment_count: int
    version: int
    created_at: datetime
    updated_at: datetime


class PostPage(PageRead[PostRead]):
    """A page of posts, newest first."""
