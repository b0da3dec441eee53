"""The requests and responses as Pydantic models. Their fields are those of the service."""

from datetime import datetime
from typing import Annotated

from pydantic import BaseModel, ConfigDict, Field


class PostCreate(BaseModel):
    title: Annotated[str, Field(min_length=1, max_length=200)]
    body: Annotated[str, Field(min_length=1, max_length=20_000)]


class Author(BaseModel):
    model_config = ConfigDict(from_attributes=True)

    id: int
    name: str
    avatar_url: str | None


class PostRead(BaseModel):
    model_config = ConfigDict(from_attributes=True)

    id: int
    author: Author
    title: str
    body: str
    comment_count: int
    version: int
    created_at: datetime
    updated_at: datetime


class PostPage(BaseModel):
    model_config = ConfigDict(from_attributes=True)

    items: list[PostRead]
    next: str | None
    prev: str | None


class UserRead(BaseModel):
    model_config = ConfigDict(from_attributes=True)

    id: int
    name: str
    bio: str
    avatar_url: str | None
    created_at: datetime
    email: str
    role: str
    verified: bool
    updated_at: datetime
