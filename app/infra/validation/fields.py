"""Types for input fields. Each value that they accept can be stored, and is returned unchanged."""

import re
import unicodedata
from typing import Annotated

from email_validator import EmailNotValidError, validate_email
from pydantic import AfterValidator, Field
from pydantic_core import PydanticCustomError

from app.infra.validation._numbers import (
    MAX_WHOLE,
    WHOLE,
    DecimalText,
    Input,
    Money,
    Whole,
)
from app.infra.validation._times import Date, DateTime
from app.infra.validation._words import (
    MAX_SLUG_LENGTH,
    MAX_URL_LENGTH,
    Choice,
    Currency,
    Slug,
    Url,
)

__all__ = [
    "KIB",
    "MAX_EMAIL_LENGTH",
    "MAX_ID",
    "MAX_SLUG_LENGTH",
    "MAX_URL_LENGTH",
    "MAX_WHOLE",
    "Choice",
    "Currency",
    "Date",
    "DateTime",
    "DecimalText",
    "Email",
    "Id",
    "Input",
    "Limit",
    "Money",
    "NewPassword",
    "PasswordAsTyped",
    "Slug",
    "Text",
    "Url",
    "Whole",
    "normalise_email",
    "normalise_password",
]

KIB = 1024
MAX_ID = MAX_WHOLE
MAX_EMAIL_LENGTH = 254  # RFC 5321, §4.5.3.1.3: 256 octets with the angle brackets
MIN_PASSWORD_LENGTH, MAX_PASSWORD_LENGTH = 8, 128
# Before normalisation a letter with two diacritics may be three code points.
MAX_TYPED_PASSWORD_LENGTH = 3 * MAX_PASSWORD_LENGTH
ENCODED_WORD = "=?"  # its beginning (RFC 2047)
CONTROLS = re.compile(r"[\x00-\x1f\x7f-\x9f]")  # Unicode category Cc
SPACES = re.compile("[\u00a0\u1680\u2000-\u200a\u202f\u205f\u3000]")  # category Zs without U+0020


def normalise_email(text: str) -> str | None:
    """Return the form in which an address is stored, or None if it is not an address.

    Encoded words are refused: `=?utf-8?q?ann?=@example.com` is another mailbox than
    `ann@example.com`, but some mail servers and the headers of mails do not tell them apart.
    """
    if ENCODED_WORD in text:
        return None
    try:
        return validate_email(text, check_deliverability=False).normalized
    except EmailNotValidError:
        return None


def normalise_password(text: str) -> str | None:
    """Return the form in which a password is hashed (OpaqueString, RFC 8265, section 4.2).

    None if the text is empty, too long or has control characters.
    """
    # Check the length first: normalisation may take quadratic time.
    if not text or len(text) > MAX_TYPED_PASSWORD_LENGTH or CONTROLS.search(text):
        return None
    return unicodedata.normalize("NFC", SPACES.sub(" ", text))


def _password(text: str) -> str:
    normalised = normalise_password(text) or ""
    if not MIN_PASSWORD_LENGTH <= len(normalised) <= MAX_PASSWORD_LENGTH:
        raise PydanticCustomError(
            "password_length",
            "A password should have {shortest} to {longest} characters",
            {"shortest": MIN_PASSWORD_LENGTH, "longest": MAX_PASSWORD_LENGTH},
        )
    return normalised


def _email(text: str) -> str:
    if (normalised := normalise_email(text)) is None:
        # The library's own message quotes the input.
        raise PydanticCustomError("email", "Input should be an e-mail address")
    return normalised


# PostgreSQL cannot store NUL. The pattern also makes Pydantic refuse lone surrogates.
Text = Annotated[str, Field(pattern=r"^[^\x00]*$")]
Email = Annotated[
    Text,
    Field(max_length=MAX_EMAIL_LENGTH, json_schema_extra={"format": "email"}),
    AfterValidator(_email),
]
# The password of an existing account. It may be older than the rules for new passwords.
PasswordAsTyped = Annotated[Text, Field(max_length=MAX_TYPED_PASSWORD_LENGTH)]
# A new password. Its length counts after normalisation, so Pydantic cannot check it.
NewPassword = Annotated[
    str,
    Field(
        max_length=MAX_TYPED_PASSWORD_LENGTH,
        pattern=r"^[^\x00-\x1f\x7f-\x9f]*$",
        json_schema_extra={"minLength": MIN_PASSWORD_LENGTH, "maxLength": MAX_PASSWORD_LENGTH},
    ),
    AfterValidator(_password),
]
Id = Annotated[int, Field(ge=1, le=MAX_ID), WHOLE]
Position = Annotated[int, Field(ge=0, le=MAX_ID), WHOLE]  # the id of the last that one has, or 0
Limit = Annotated[int, Field(ge=1, le=100), WHOLE]
