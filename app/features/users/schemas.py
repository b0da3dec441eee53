"""Requests and responses of `/v1/users`."""

from datetime import datetime
from typing import Annotated, Self

from pydantic import MISSING, BaseModel, ConfigDict, Field, model_validator
from pydantic_core import PydanticCustomError

from app.features.users.models import Role
from app.infra.validation.fields import Email, Input, NewPassword, PasswordAsTyped, Text

Name = Annotated[Text, Field(min_length=1, max_length=100)]


class UserCreate(Input):
    """A new account."""

    model_config = ConfigDict(
        json_schema_extra={
            "examples": [
                {"email": "ada@example.com", "name": "Ada", "password": "correct horse battery"}
            ]
        }
    )

    email: Email
    name: Name
    password: NewPassword


class UserUpdate(Input):
    """Changes to one's own account. Fields that are left out keep their values.

    A new e-mail address or password needs the current password.
    """

    model_config = ConfigDict(
        json_schema_extra={
            "examples": [{"name": "Ada L.", "bio": "I count."}],
            "dependentRequired": {
                "email": ["current_password"],
                "password": ["current_password"],
            },
        }
    )

    name: Name | MISSING = MISSING
    bio: Annotated[Text, Field(max_length=500)] | MISSING = MISSING
    email: Email | MISSING = MISSING
    password: NewPassword | MISSING = MISSING
    current_password: PasswordAsTyped | MISSING = MISSING

    @model_validator(mode="after")
    def _require_current_password(self) -> Self:
        if self.changes_credentials and self.current_password is MISSING:
            raise PydanticCustomError(
                "current_password", "A new e-mail address or password needs current_password"
            )
        return self

    @property
    def changes_credentials(self) -> bool:
        return self.email is not MISSING or self.password is not MISSING


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
    role: Role
    verified: bool
    updated_at: datetime
