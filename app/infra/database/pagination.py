"""Keyset pagination over (created_at, id), without COUNT and OFFSET.

Every page costs the same, because the condition `(created_at, id) < (…)` can use an index on both
columns. Pages stay correct while rows are inserted and deleted. Source: Winand, *SQL Performance
Explained*, chapter 7.
"""

import binascii
import struct
from base64 import urlsafe_b64decode, urlsafe_b64encode
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from datetime import UTC, datetime, timedelta
from hashlib import blake2b
from typing import Generic, Self, TypeVar

from sqlalchemy import BigInteger, DateTime, Integer, Select, bindparam, func, tuple_
from sqlalchemy.ext.asyncio import AsyncSession

from app.errors import InvalidRequest
from app.infra.database.base import Base
from app.infra.validation.fields import MAX_ID

VERSION = 1
EPOCH = datetime(1970, 1, 1, tzinfo=UTC)
MICROSECOND = timedelta(microseconds=1)
LAYOUT = struct.Struct(">B?4sqq")  # version, backward, list, microseconds, id
ENCODED_LENGTH = len(urlsafe_b64encode(bytes(LAYOUT.size)).rstrip(b"="))


RowT = TypeVar("RowT", bound=Base)


@dataclass(frozen=True, slots=True)
class PageRequest:
    """Which page of a list a client asks for: `limit` items after `cursor`.

    `created_at` is the start of a transaction, and the row becomes visible at its commit, at most
    `max_transaction` later.
    """

    limit: int
    cursor: str | None = None
    max_transaction: timedelta = timedelta.max


@dataclass(frozen=True, slots=True)
class Page(Generic[RowT]):
    """One page, with the cursors of the next and the previous page, if there are any.

    `rows` has the items and the row after them, which shows that another page follows. When
    `is_settled` is true, no transaction that commits from now on can add a row to the page.
    """

    items: Sequence[RowT]
    next: str | None
    prev: str | None
    rows: Sequence[RowT]
    is_settled: bool


@dataclass(frozen=True, slots=True)
class Cursor:
    """A position between two rows of a list, and the direction to read in."""

    list_id: bytes
    created_at: datetime
    row_id: int
    backward: bool = False

    def encode(self) -> str:
        """Encode as URL-safe text. It is opaque to clients, but neither secret nor signed."""
        microseconds = (self.created_at - EPOCH) // MICROSECOND
        packed = LAYOUT.pack(VERSION, self.backward, self.list_id, microseconds, self.row_id)
        return urlsafe_b64encode(packed).rstrip(b"=").decode()

    @classmethod
    def decode(cls, text: str, list_id: bytes) -> Self:
        """Decode a cursor of the list `list_id`, or raise `InvalidRequest` (`invalid_cursor`)."""
        try:
            if len(text) != ENCODED_LENGTH:
                raise ValueError("length")
            packed = urlsafe_b64decode(text.encode("ascii") + b"=" * (-len(text) % 4))
            version, backward, of_list, microseconds, row_id = LAYOUT.unpack(packed)
            cursor = cls(of_list, EPOCH + microseconds * MICROSECOND, row_id, backward)
            # Base64 can encode the same bytes in several ways. Accept only the one of `encode`.
            if version != VERSION or of_list != list_id or row_id < 0 or cursor.encode() != text:
                raise ValueError("not ours")
        except (ValueError, OverflowError, struct.error, binascii.Error):
            raise InvalidRequest(
                "The cursor is not valid for this list. Start again without a cursor.",
                code="invalid_cursor",
            ) from None
        return cursor


class KeysetList(Generic[RowT]):
    """A list that is read page by page. Its SQL statements are built once, at import.

    `statement` selects one entity. Its bind parameters are passed to `page()` by name. A cursor is
    valid only for the same list with the same parameters.
    """

    def __init__(
        self, name: str, statement: Select[RowT], row: type[Base], *, newest_first: bool
    ) -> None:
        self._name = name
        self._newest_first = newest_first
        timed = statement.add_columns(func.now())
        key = tuple_(row.created_at, row.id)
        place = tuple_(
            bindparam("at", type_=DateTime(timezone=True)), bindparam("after_id", type_=BigInteger)
        )
        # LIMIT is a literal: as a parameter, PostgreSQL would plan the statement again each time.
        limited = timed.limit(bindparam("limit", type_=Integer, literal_execute=True))
        ascending = limited.order_by(row.created_at, row.id)
        descending = limited.order_by(row.created_at.desc(), row.id.desc())
        later, earlier = ascending.where(key > place), descending.where(key < place)
        self._first = descending if newest_first else ascending
        self._forward, self._backward = (earlier, later) if newest_first else (later, earlier)

    async def page(self, session: AsyncSession, query: PageRequest, **filters: int) -> Page[RowT]:
        """Read one page in one statement. It reads one more row, to know whether a page follows."""
        list_id = self._id(filters)
        cursor = None if query.cursor is None else Cursor.decode(query.cursor, list_id)
        parameters: dict[str, object] = {**filters, "limit": query.limit + 1}
        statement = self._first
        if cursor is not None:
            parameters |= {"at": cursor.created_at, "after_id": cursor.row_id}
            statement = self._backward if cursor.backward else self._forward
        found = (await session.execute(statement, parameters)).all()
        rows = [row for row, _ in found]
        items, next_page, prev_page = self._to_page(rows, query.limit, cursor, list_id)
        newest = self._newest_possible(rows, query.limit, cursor)
        is_settled = bool(found and newest and found[0][1] - newest > query.max_transaction)
        return Page(items, next_page, prev_page, rows, is_settled)

    def _id(self, filters: Mapping[str, int]) -> bytes:
        identity = f"{self._name}?{sorted(filters.items())}"
        return blake2b(identity.encode(), digest_size=4).digest()

    def _newest_possible(
        self, rows: Sequence[RowT], limit: int, cursor: Cursor | None
    ) -> datetime | None:
        """Return an upper bound for `created_at` of rows that may appear here, or None."""
        is_ascending = self._newest_first == (cursor is not None and cursor.backward)
        if is_ascending:
            return rows[-1].created_at if len(rows) > limit else None
        return None if cursor is None else cursor.created_at

    def _to_page(
        self, rows: Sequence[RowT], limit: int, cursor: Cursor | None, list_id: bytes
    ) -> tuple[Sequence[RowT], str | None, str | None]:
        """Return the items, and the cursors of the next and the previous page."""
        more = len(rows) > limit
        items = rows[:limit]
        if cursor is None:
            return items, self._cursor(items[-1], list_id) if more else None, None
        if not items:
            return self._empty_page(cursor)
        if cursor.backward:
            items = items[::-1]
        before = self._cursor(items[0], list_id, backward=True)
        after = self._cursor(items[-1], list_id)
        if cursor.backward:
            return items, after, before if more else None
        return items, after if more else None, before

    def _cursor(self, row: RowT, list_id: bytes, *, backward: bool = False) -> str:
        return Cursor(list_id, row.created_at, row.id, backward).encode()

    def _empty_page(self, cursor: Cursor) -> tuple[Sequence[RowT], str | None, str | None]:
        """Return a cursor back to, and including, the row of `cursor`."""
        step = 1 if self._newest_first == cursor.backward else -1
        row_id = min(max(cursor.row_id + step, 0), MAX_ID)
        back = replace(cursor, row_id=row_id, backward=not cursor.backward).encode()
        return ([], back, None) if cursor.backward else ([], None, back)
