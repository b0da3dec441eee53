"""Cursors of paginated lists: a position between two rows, as URL-safe text.

A cursor contains the value of the column that the list is ordered by, and not only an id, so it
stays valid when its row is deleted. It is opaque to clients, but neither secret nor signed.
"""

import binascii
import re
import struct
from base64 import urlsafe_b64decode, urlsafe_b64encode
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from datetime import UTC, date, datetime, timedelta
from decimal import Decimal
from enum import Enum
from hashlib import blake2b
from typing import Any
from uuid import UUID

from sqlalchemy import CHAR, BigInteger, Date, DateTime, Float, Integer, Numeric, String
from sqlalchemy import Enum as EnumColumn
from sqlalchemy.types import TypeEngine

from app.errors import InvalidRequest

VERSION = 1
EPOCH = datetime(1970, 1, 1, tzinfo=UTC)
MICROSECOND = timedelta(microseconds=1)
HEAD = struct.Struct(">B?4s")  # version, backward, list
TAIL = struct.Struct(">q")  # id
WIDE, NARROW = struct.Struct(">q"), struct.Struct(">i")
MAX_TEXT_LENGTH = 255
MAX_ENCODED_LENGTH = (HEAD.size + 4 * MAX_TEXT_LENGTH + TAIL.size + 2) // 3 * 4
NUMBER = re.compile(r"-?[0-9]+(?:\.[0-9]+)?|NaN")


@dataclass(frozen=True, slots=True)
class Cursor:
    """A position in a list, beside the row with this value and id, and the direction to read in."""

    list_id: bytes
    value: Any
    row_id: int
    backward: bool = False


@dataclass(frozen=True, slots=True)
class CursorFormat:
    """How the values of one type of column are written in cursors, and bound in statements."""

    bind_type: TypeEngine[Any]
    pack: Callable[[Any], bytes]
    unpack: Callable[[bytes], Any]

    def encode(self, cursor: Cursor) -> str:
        head = HEAD.pack(VERSION, cursor.backward, cursor.list_id)
        packed = head + self.pack(cursor.value) + TAIL.pack(cursor.row_id)
        return urlsafe_b64encode(packed).rstrip(b"=").decode()

    def decode(self, text: str, list_id: bytes) -> Cursor:
        """Decode a cursor of the list `list_id`, or raise `InvalidRequest` (`invalid_cursor`)."""
        try:
            if len(text) > MAX_ENCODED_LENGTH:
                raise ValueError("length")
            packed = urlsafe_b64decode(text.encode("ascii") + b"=" * (-len(text) % 4))
            version, backward, of_list = HEAD.unpack(packed[: HEAD.size])
            value = self.unpack(packed[HEAD.size : -TAIL.size])
            (row_id,) = TAIL.unpack(packed[HEAD.size :][-TAIL.size :])
            cursor = Cursor(of_list, value, row_id, backward)
            # Bytes and values can be written in several ways. Accept only the one of `encode`.
            if (
                version != VERSION
                or of_list != list_id
                or row_id < 0
                or self.encode(cursor) != text
            ):
                raise ValueError("not ours")
        except (ArithmeticError, ValueError, struct.error, binascii.Error):
            raise InvalidRequest(
                "The cursor is not valid for this list. Start again without a cursor.",
                code="invalid_cursor",
            ) from None
        return cursor


def list_identity(name: str, filters: Mapping[str, object], order: str = "") -> bytes:
    """Return what cursors say about their list: they are valid for the same filters and order."""
    try:
        values = sorted((key, _plain(one)) for key, one in filters.items())
    except TypeError as error:
        raise TypeError(f"The list {name}: {error}") from None
    return blake2b(f"{name}?{values}{order}".encode(), digest_size=4).digest()


def _plain(value: object) -> object:
    """Return a value whose `repr` is the same in every process, for equal filters the same one."""
    match value:
        case Enum():
            return _plain(value.value)
        case list() | tuple():
            return [_plain(one) for one in value]
        case Decimal():
            return plain_decimal(value)
        case datetime(tzinfo=None):
            return value
        case datetime():
            return value.astimezone(UTC)
        case str() | int() | date() | UUID():
            return value
    raise TypeError(f"a filter cannot be {type(value).__name__}")


def cursor_format(kind: TypeEngine[Any]) -> CursorFormat:
    """Return the format for a column of this type, or raise `TypeError` if no list can use it."""
    match kind:
        case Integer():
            return CursorFormat(BigInteger(), WIDE.pack, lambda data: WIDE.unpack(data)[0])
        case DateTime(timezone=True):
            return CursorFormat(DateTime(timezone=True), _pack_moment, _unpack_moment)
        case Date():
            return CursorFormat(Date(), _pack_date, _unpack_date)
        case Numeric(asdecimal=True, precision=int()) if not isinstance(kind, Float):
            return CursorFormat(Numeric(), _pack_decimal, _unpack_decimal)
        case EnumColumn() if kind.native_enum or not _stores_values(kind):
            raise TypeError("an enum has to be stored as text, by the values of its members")
        case String(length=int(length)) if length <= MAX_TEXT_LENGTH and not isinstance(kind, CHAR):
            return CursorFormat(String(), _pack_text, _unpack_text)
    raise TypeError(
        "a list can be ordered by Integer, DateTime(timezone=True), Date, Numeric(precision, scale)"
        f" and String(length), whose length is at most {MAX_TEXT_LENGTH}"
    )


def _stores_values(kind: EnumColumn) -> bool:
    return kind.enum_class is None or kind.enums == [str(one.value) for one in kind.enum_class]


def _pack_moment(moment: datetime) -> bytes:
    # The driver returns infinity as the last microsecond of the year 9999, without a time zone.
    aware = moment.replace(tzinfo=moment.tzinfo or UTC)
    return WIDE.pack((aware - EPOCH) // MICROSECOND)


def _unpack_moment(data: bytes) -> datetime:
    microseconds: int = WIDE.unpack(data)[0]
    return EPOCH + microseconds * MICROSECOND


def _pack_date(day: date) -> bytes:
    return NARROW.pack(day.toordinal())


def _unpack_date(data: bytes) -> date:
    (ordinal,) = NARROW.unpack(data)
    return date.fromordinal(ordinal)


def plain_decimal(number: Decimal) -> str:
    """Write equal numbers in the same way: 1.50 is 1.5, and -0 is 0."""
    plain = f"{number:f}"
    if "." in plain:
        plain = plain.rstrip("0").rstrip(".")
    return "0" if plain == "-0" else plain


def _pack_decimal(number: Decimal) -> bytes:
    return plain_decimal(number).encode()


def _unpack_decimal(data: bytes) -> Decimal:
    text = data.decode("ascii")
    if not NUMBER.fullmatch(text):
        raise ValueError("not a number")
    return Decimal(text)


def _pack_text(text: Any) -> bytes:
    return str(text.value if isinstance(text, Enum) else text).encode()


def _unpack_text(data: bytes) -> str:
    text = data.decode()
    if "\0" in text:
        raise ValueError("PostgreSQL cannot store NUL")
    return text
