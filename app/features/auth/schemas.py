"""What comes in and goes out of `/v1/auth`."""

from typing import Annotated, Literal

from pydantic import BaseModel, ConfigDict, Field

from app.infra.inputs import LONGEST_EMAIL, Input, Text


class Credentials(BaseModel):
    """The OAuth2 password form (RFC 6749, §4.3.2). `username` is the e-mail address."""

    # OAuth2 clients send more fields, which servers ignore (RFC 6749, §3.2).
    model_config = ConfigDict(
        extra="ignore",
        json_schema_extra={
            "examples": [{"username": "demo@example.com", "password": "demo-password"}]
        },
    )

    username: Annotated[Text, Field(max_length=LONGEST_EMAIL)]
    password: Annotated[Text, Field(max_length=128)]
    grant_type: Literal["password"] = "password"


class RefreshTokenWrite(Input):
    """A refresh token, by whoever holds it."""

    refresh_token: Annotated[Text, Field(max_length=128)]


class TokenRead(BaseModel):
    """An access token for `expires_in` seconds, and a refresh token to get the next one."""

    model_config = ConfigDict(title="Token")

    access_token: str
    refresh_token: str
    token_type: Literal["bearer"] = "bearer"
    expires_in: int
