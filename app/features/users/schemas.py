"""What comes in and goes out of `/v1/users`."""

from datetime import datetime
from typing import Annotated

from pydantic import BaseModel, ConfigDict, Field

from app.infra.inputs import Email, Input, Text

Name = Annotated[Text, Field(min_length=1, max_length=100)]
Password = Annotated[Text, Field(min_length=8, max_length=128)]


class UserCreate(Input):
    """A new account."""

    email: Email
    name: Name
    password: Password


class Author(BaseModel):
    """Who wrote something."""

    id: int
    name: str
    avatar_url: str | None


class PublicUserRead(BaseModel):
    """What everybody may know of a user."""

    model_config = ConfigDict(title="PublicUser")

    id: int
    name: str
    bio: str
    avatar_url: str | None
    created_at: datetime


class UserRead(PublicUserRead):
    """What a user knows of themselves."""

    model_config = ConfigDict(title="User")

    email: str
    updated_at: datetime
