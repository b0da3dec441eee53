"""Requests about mailed tokens."""

from typing import Annotated

from pydantic import ConfigDict, Field

from app.infra.validation.fields import Email, Input, NewPassword, Text

Token = Annotated[Text, Field(min_length=1, max_length=128)]


class Verification(Input):
    """The token of a mail that was sent to the address of an account."""

    token: Token


class PasswordResetRequest(Input):
    """The address of an account whose owner has forgotten the password."""

    model_config = ConfigDict(json_schema_extra={"examples": [{"email": "ada@example.com"}]})

    email: Email


class PasswordReset(Input):
    """The token of a mail, and the new password."""

    token: Token
    password: NewPassword
