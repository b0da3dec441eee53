"""The types that inputs are made of: what they accept can be stored, and comes back unchanged."""

import re
from typing import Annotated

from email_validator import EmailNotValidError, validate_email
from pydantic import AfterValidator, BaseModel, BeforeValidator, ConfigDict, Field
from pydantic_core import PydanticCustomError

MAX_ID = 2**63 - 1
LONGEST_EMAIL = 254  # RFC 5321, §4.5.3.1.3: a path is 256 octets with its angle brackets
DIGITS = re.compile(r"0|[1-9][0-9]{0,18}")  # one spelling for each number


def normalise_email(text: str) -> str | None:
    """Return the one spelling of an address under which it is stored, or None for no address."""
    try:
        return validate_email(text, check_deliverability=False).normalized
    except EmailNotValidError:
        return None


def _email(text: str) -> str:
    if (normalised := normalise_email(text)) is None:
        # The library's own message quotes the input.
        raise PydanticCustomError("email", "Input should be an e-mail address")
    return normalised


def _plain_digits(value: object) -> object:
    if isinstance(value, str) and not DIGITS.fullmatch(value):
        raise PydanticCustomError("whole_number", "Input should be a positive whole number")
    return value


# PostgreSQL does not hold NUL. The pattern makes Pydantic refuse lone surrogates as well.
Text = Annotated[str, Field(pattern=r"^[^\x00]*$")]
Email = Annotated[
    Text,
    Field(max_length=LONGEST_EMAIL, json_schema_extra={"format": "email"}),
    AfterValidator(_email),
]
Id = Annotated[int, Field(ge=1, le=MAX_ID), BeforeValidator(_plain_digits)]
Limit = Annotated[int, Field(ge=1, le=100), BeforeValidator(_plain_digits)]


class Input(BaseModel):
    """A request body: an unknown field is a mistake, and is refused."""

    model_config = ConfigDict(extra="forbid")
