"""The types that inputs are made of: what they accept can be stored, and comes back unchanged."""

import re
import unicodedata
from typing import Annotated

from email_validator import EmailNotValidError, validate_email
from pydantic import AfterValidator, BaseModel, BeforeValidator, ConfigDict, Field
from pydantic_core import PydanticCustomError

KIB = 1024
MAX_ID = 2**63 - 1
LONGEST_EMAIL = 254  # RFC 5321, §4.5.3.1.3: a path is 256 octets with its angle brackets
SHORTEST_PASSWORD, LONGEST_PASSWORD = 8, 128
# Some keyboards send a letter and its two marks as three code points, which are then composed.
LONGEST_PASSWORD_AS_TYPED = 3 * LONGEST_PASSWORD
CONTROLS = re.compile(r"[\x00-\x1f\x7f-\x9f]")  # the category Cc
SPACES = re.compile("[\u00a0\u1680\u2000-\u200a\u202f\u205f\u3000]")  # Zs, but for the usual one
DIGITS = re.compile(r"0|[1-9][0-9]{0,18}")  # one spelling for each number


def normalise_email(text: str) -> str | None:
    """Return the one spelling of an address under which it is stored, or None for no address."""
    try:
        return validate_email(text, check_deliverability=False).normalized
    except EmailNotValidError:
        return None


def normalise_password(text: str) -> str | None:
    """Return the one form in which a password is hashed (OpaqueString, RFC 8265, section 4.2).

    None for text that has no such form: control characters, nothing at all, or too much of it.
    """
    # The order matters: putting marks into their canonical order takes quadratic time.
    if not text or len(text) > LONGEST_PASSWORD_AS_TYPED or CONTROLS.search(text):
        return None
    return unicodedata.normalize("NFC", SPACES.sub(" ", text))


def _password(text: str) -> str:
    normalised = normalise_password(text) or ""
    if not SHORTEST_PASSWORD <= len(normalised) <= LONGEST_PASSWORD:
        raise PydanticCustomError(
            "password_length",
            "A password should have {shortest} to {longest} characters",
            {"shortest": SHORTEST_PASSWORD, "longest": LONGEST_PASSWORD},
        )
    return normalised


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
# Of somebody who has an account: it may be older than the rules for a new one.
PasswordAsTyped = Annotated[Text, Field(max_length=LONGEST_PASSWORD_AS_TYPED)]
# A new one. Its length is counted after normalisation, so the schema's bounds are not Pydantic's.
NewPassword = Annotated[
    str,
    Field(
        max_length=LONGEST_PASSWORD_AS_TYPED,
        pattern=r"^[^\x00-\x1f\x7f-\x9f]*$",
        json_schema_extra={"minLength": SHORTEST_PASSWORD, "maxLength": LONGEST_PASSWORD},
    ),
    AfterValidator(_password),
]
Id = Annotated[int, Field(ge=1, le=MAX_ID), BeforeValidator(_plain_digits)]
Limit = Annotated[int, Field(ge=1, le=100), BeforeValidator(_plain_digits)]


class Input(BaseModel):
    """A request body: an unknown field is a mistake, and is refused."""

    model_config = ConfigDict(extra="forbid")
