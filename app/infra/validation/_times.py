"""Days and moments. Import them from `app.infra.validation.fields`.

Pydantic's own types also accept numbers, days as moments, and moments as days.
"""

import re
from collections.abc import Callable
from datetime import UTC, date, datetime
from typing import Annotated, Any

from pydantic import AfterValidator, BeforeValidator, Field
from pydantic_core import PydanticCustomError

DATE = r"(?!0000)[0-9]{4}-[0-9]{2}-[0-9]{2}"
# What lies outside of the years 1 to 9999 in UTC cannot be stored, and the driver stores the first
# and the last microsecond of these years as -infinity and infinity.
DATE_TIME = (
    r"(?!0001-01-01[Tt](?:00:00:00(?:\.0+)?[Zz-]|.*\+))(?!9999-12-31[Tt](?:23:59:59\.999999|.*-))"
    rf"{DATE}[Tt](?:[01][0-9]|2[0-3]):[0-5][0-9]:[0-5][0-9](?:\.[0-9]{{1,6}})?"
    r"(?:[Zz]|[+-](?:[01][0-9]|2[0-3]):[0-5][0-9])"
)


def _text_of(
    kind: type, pattern: str, parse: Callable[[str], Any], error: PydanticCustomError
) -> BeforeValidator:
    """Accept an instance of `kind`, or text that matches."""
    expression = re.compile(pattern)

    def convert(value: object) -> object:
        if type(value) is kind:
            return value
        try:
            if isinstance(value, str) and expression.fullmatch(value):
                return parse(value)
        except ValueError:  # there is no such day
            pass
        raise error

    return BeforeValidator(convert)


def _to_utc(moment: datetime) -> datetime:
    if moment.tzinfo is None:
        raise PydanticCustomError("timezone_aware", "Input should have a time zone")
    return moment.astimezone(UTC)


# A day, such as 2026-02-28 (full-date of RFC 3339). The driver stores the first and the last day of
# the years 1 to 9999 as -infinity and infinity, and returns them as they were.
Date = Annotated[
    date,
    _text_of(
        date,
        DATE,
        date.fromisoformat,
        PydanticCustomError("date", "Input should be a date, such as 2026-02-28"),
    ),
    Field(json_schema_extra={"pattern": f"^{DATE}$"}),
]

# A moment, such as 2026-02-28T12:00:00+01:00 (date-time of RFC 3339). It is returned in UTC.
DateTime = Annotated[
    datetime,
    AfterValidator(_to_utc),
    _text_of(
        datetime,
        DATE_TIME,
        lambda text: datetime.fromisoformat(text.upper()),
        PydanticCustomError(
            "date_time",
            "Input should be a time with a zone and at most six decimals of the second, such as "
            "2026-02-28T12:00:00Z, between the years 1 and 9999",
        ),
    ),
    Field(json_schema_extra={"pattern": f"^{DATE_TIME}$"}),
]
