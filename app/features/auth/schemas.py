"""Requests and responses of `/v1/auth`."""

from typing import Annotated, Any, Literal, Self

from pydantic import BaseModel, ConfigDict, Field, model_validator
from pydantic_core import PydanticCustomError

from app.infra.validation.fields import MAX_EMAIL_LENGTH, Input, PasswordAsTyped, Text

Token = Annotated[Text, Field(max_length=128)]

# The grant types of the token endpoint, and the fields that each one needs.
GRANTS = {"password": ("username", "password"), "refresh_token": ("refresh_token",)}


def _required_fields(grant_type: str) -> dict[str, Any]:
    # A field without a value counts as omitted (RFC 6749, section 3.2).
    fields = GRANTS[grant_type]
    return {"required": list(fields), "properties": {name: {"minLength": 1} for name in fields}}


def _describe(schema: dict[str, Any]) -> None:
    """Describe which fields each grant type needs, which Pydantic cannot express."""
    for name, field in schema["properties"].items():
        if name != "grant_type":
            del field["default"]
    schema["if"] = {
        "properties": {"grant_type": {"const": "refresh_token"}},
        "required": ["grant_type"],
    }
    schema["then"], schema["else"] = _required_fields("refresh_token"), _required_fields("password")
    schema["examples"] = [{"username": "demo@example.com", "password": "demo-password"}]


class Credentials(BaseModel):
    """The OAuth2 forms of RFC 6749, sections 4.3.2 and 6. `username` is the e-mail address."""

    # Servers ignore unknown fields (RFC 6749, section 3.2).
    model_config = ConfigDict(extra="ignore", json_schema_extra=_describe)

    grant_type: Literal["password", "refresh_token"] = "password"
    username: Annotated[Text, Field(max_length=MAX_EMAIL_LENGTH)] = ""
    password: PasswordAsTyped = ""
    refresh_token: Token = ""

    @model_validator(mode="after")
    def _require_fields_of_grant(self) -> Self:
        needed = GRANTS[self.grant_type]
        if not all(getattr(self, name) for name in needed):
            raise PydanticCustomError(
                "missing", "The grant type needs {fields}", {"fields": " and ".join(needed)}
            )
        return self


class RefreshTokenWrite(Input):
    """A refresh token, by whoever holds it."""

    refresh_token: Token


class TokenRead(BaseModel):
    """An access token for `expires_in` seconds, and a refresh token to get the next one."""

    model_config = ConfigDict(title="Token")

    access_token: str
    refresh_token: str
    token_type: Literal["bearer"] = "bearer"
    expires_in: int
