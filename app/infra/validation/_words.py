"""Choices, slugs, addresses and codes. Import them from `app.infra.validation.fields`."""

import re
from enum import StrEnum
from typing import Annotated

from pydantic import BeforeValidator, Field
from pydantic_core import PydanticCustomError

SLUG = r"[a-z0-9]+(?:-[a-z0-9]+)*"
LABEL = r"[A-Za-z0-9](?:[A-Za-z0-9-]{0,61}[A-Za-z0-9])?"
BYTE = r"(?:25[0-5]|2[0-4][0-9]|1[0-9]{2}|[1-9]?[0-9])"
HOST = rf"(?:(?:{LABEL}\.)*[A-Za-z](?:[A-Za-z0-9-]{{0,61}}[A-Za-z0-9])?|{BYTE}(?:\.{BYTE}){{3}})"
PORT = r"(?:[1-9][0-9]{0,3}|[1-5][0-9]{4}|6[0-4][0-9]{3}|65[0-4][0-9]{2}|655[0-2][0-9]|6553[0-5])"
PATH_CHARACTER = r"(?:[A-Za-z0-9._~!$&'()*+,;=:@/-]|%[0-9A-Fa-f]{2})"
URL = (
    rf"[Hh][Tt][Tt][Pp][Ss]?://{HOST}(?::{PORT})?"
    rf"(?:/{PATH_CHARACTER}*)?(?:\?(?:{PATH_CHARACTER}|\?)*)?(?:#(?:{PATH_CHARACTER}|\?)*)?"
)
MAX_URL_LENGTH = 2_000
MAX_SLUG_LENGTH = 100


class Choice(StrEnum):
    """One of a few words: the same in requests, in responses and in the table.

    `Mapped[Status]` is a text column with a CHECK constraint: see `app.infra.database.base`.
    """


def _text_that_matches(
    pattern: str, max_length: int, error: PydanticCustomError
) -> BeforeValidator:
    """Refuse text that does not match. Longer text is left to `Field(max_length=…)`."""
    expression = re.compile(pattern)

    def check(value: object) -> object:
        # Long text is not matched: that could block the event loop.
        if isinstance(value, str) and len(value) <= max_length and not expression.fullmatch(value):
            raise error
        return value

    return BeforeValidator(check)


# Words of lower-case letters and digits between hyphens, such as `my-first-post`.
Slug = Annotated[
    str,
    Field(min_length=1, max_length=MAX_SLUG_LENGTH, json_schema_extra={"pattern": f"^{SLUG}$"}),
    _text_that_matches(
        SLUG,
        MAX_SLUG_LENGTH,
        PydanticCustomError(
            "slug", "Input should be lower-case words and digits with single hyphens between them"
        ),
    ),
]

# An address of the web in ASCII (RFC 3986), returned as it was sent. It has no user name and no
# password. International names are written as xn--…, as browsers send them, so that no letter can
# pass for another one.
Url = Annotated[
    str,
    Field(max_length=MAX_URL_LENGTH, json_schema_extra={"format": "uri", "pattern": f"^{URL}$"}),
    _text_that_matches(
        URL,
        MAX_URL_LENGTH,
        PydanticCustomError(
            "url",
            "Input should be a URL in ASCII that begins with http:// or https://, without user "
            "name and password. Write other characters as %XX, and international names as xn--",
        ),
    ),
]

# The three letters of ISO 4217. A list of them would age: currencies come and go, and amounts in an
# old one have to stay readable. Use a `Choice` for the currencies that a service accepts.
CURRENCY = "[A-Z]{3}"
Currency = Annotated[
    str,
    Field(max_length=3, json_schema_extra={"pattern": f"^{CURRENCY}$"}),
    _text_that_matches(
        CURRENCY,
        3,
        PydanticCustomError("currency", "Input should be a currency code, such as EUR"),
    ),
]
