"""Keyset pagination, without COUNT and OFFSET.

A list is ordered by (created_at, id), or by another column and `id`. Every page costs the same,
because the condition `(created_at, id) < (…)` can use an index on both columns. Pages stay correct
while rows are inserted and deleted. Source: Winand, *SQL Performance Explained*, chapter 7.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from datetime import UTC, datetime, timedelta
from typing import Any, Generic

from sqlalchemy import (
    BigInteger,
    BindParameter,
    Column,
    ColumnElement,
    Select,
    bindparam,
    func,
    tuple_,
)
from sqlalchemy.ext.asyncio import AsyncSession
from sqlalchemy.orm import InstrumentedAttribute
from sqlalchemy.sql.visitors import iterate

from app.infra.database.cursors import Cursor, CursorFormat, cursor_format, list_identity
from app.infra.database.row_query import CompiledQuery
from app.infra.database.rows import Columns, RowT
from app.infra.validation.fields import MAX_ID

RESERVED = frozenset({"keyset_value", "keyset_id", "keyset_limit", "keyset_head"})


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


class KeysetList(Generic[RowT]):
    """A list that is read page by page. Its SQL statements are built once.

    `statement` selects from the entity of `columns`, as `select(Post)` does. Its bind parameters
    are the filters of the list, which are passed to `page()` by name. A cursor is valid only for
    the same list with the same filters.

    The list is ordered by `created_at`, or by `order_by`, a column of the entity that is NOT NULL.
    The rows have a field with the name of that column, and `id`. Rows
    with equal values are ordered by `id`. Text is ordered by the collation of its column. A row
    whose value changes moves to another page. So a cached list needs a tag that each such change
    invalidates, and a client that is paging may see that row twice or not at all.

    With `within`, the list has the values from the first expression on, and below the second one.
    As conditions of `statement`, they would let PostgreSQL begin at the end of that range, and read
    all rows from there to the page.
    """

    def __init__(
        self,
        name: str,
        columns: Columns[RowT],
        statement: Select[Any],
        *,
        newest_first: bool = False,
        order_by: InstrumentedAttribute[Any] | None = None,
        descending: bool = False,
        within: tuple[ColumnElement[Any], ColumnElement[Any]] | None = None,
    ) -> None:
        entity = columns.entity
        if order_by is None:
            order_by, descending = entity.created_at, newest_first or descending
        elif newest_first:
            raise TypeError(f"The list {name}: with `order_by`, say `descending`")
        self._order, self._format = _order(name, columns, order_by)
        self._name, self._to_rows = name, columns.to_rows
        self._descending = descending
        start = () if within is None else (order_by >= within[0],)
        end = () if within is None else (order_by < within[1],)
        self._filters = required_filters(name, statement.where(*start, *end))
        timed = columns.select(statement, func.now())
        key = tuple_(order_by, entity.id)
        place = tuple_(
            bindparam("keyset_value", type_=self._format.bind_type),
            bindparam("keyset_id", type_=BigInteger),
        )
        up = timed.order_by(order_by, entity.id)
        down = timed.order_by(order_by.desc(), entity.id.desc())
        after = CompiledQuery(up.where(key > place, *end))
        before = CompiledQuery(down.where(key < place, *start))
        self._first = CompiledQuery((down if descending else up).where(*start, *end))
        self._forward, self._backward = (before, after) if descending else (after, before)

    async def page(
        self, session: AsyncSession, query: PageRequest, /, **filters: object
    ) -> Page[RowT]:
        """Read one page in one statement. It reads one more row, to know whether a page follows.

        Raises `InvalidRequest` for a cursor that is not one of this list with these filters.
        """
        if filters.keys() != self._filters:
            raise TypeError(f"The list {self._name} has the filters {sorted(self._filters)}")
        list_id = self._id(filters)
        cursor = None if query.cursor is None else self._format.decode(query.cursor, list_id)
        parameters, statement = filters, self._first
        if cursor is not None:
            parameters = {**filters, "keyset_value": cursor.value, "keyset_id": cursor.row_id}
            statement = self._backward if cursor.backward else self._forward
        found = await statement.fetch(session, parameters, limit=query.limit + 1)
        rows = self._to_rows(found)
        items, next_page, prev_page = self._to_page(rows, query.limit, cursor, list_id)
        newest = self._newest_possible(rows, query.limit, cursor)
        is_settled = bool(found and newest and found[0][-1] - newest > query.max_transaction)
        return Page(items, next_page, prev_page, rows, is_settled)

    def _id(self, filters: Mapping[str, object]) -> bytes:
        is_default = self._order == "created_at"
        order = "" if is_default else f"&order={self._order}&descending={self._descending}"
        return list_identity(self._name, filters, order)

    def _newest_possible(
        self, rows: Sequence[Any], limit: int, cursor: Cursor | None
    ) -> datetime | None:
        """Return an upper bound for `created_at` of rows that may appear here, or None."""
        if self._order != "created_at":
            return None
        is_ascending = self._descending == (cursor is not None and cursor.backward)
        if not is_ascending:
            return None if cursor is None else cursor.value
        if len(rows) <= limit:
            return None
        newest: datetime = rows[-1].created_at
        return newest.replace(tzinfo=newest.tzinfo or UTC)  # infinity has none, as in cursors.py

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

    def _cursor(self, row: Any, list_id: bytes, *, backward: bool = False) -> str:
        value = getattr(row, self._order)
        return self._format.encode(Cursor(list_id, value, row.id, backward))

    def _empty_page(self, cursor: Cursor) -> tuple[Sequence[RowT], str | None, str | None]:
        """Return a cursor back to, and including, the row of `cursor`."""
        step = 1 if self._descending == cursor.backward else -1
        row_id = min(max(cursor.row_id + step, 0), MAX_ID)
        place = replace(cursor, row_id=row_id, backward=not cursor.backward)
        back = self._format.encode(place)
        return ([], back, None) if cursor.backward else ([], None, back)


def _order(
    name: str, columns: Columns[Any], order_by: InstrumentedAttribute[Any]
) -> tuple[str, CursorFormat]:
    """Return the name of the attribute to order by, and the format of its values."""
    column = order_by.expression
    if order_by.class_ is not columns.entity or not isinstance(column, Column):
        entity = columns.entity.__name__
        raise TypeError(f"The list {name} can only be ordered by a column of {entity}")
    if column.nullable:
        raise TypeError(
            f"The list {name} cannot be ordered by {column}, because it can be NULL, and no page "
            "would show those rows. Make the column NOT NULL, or order by another one."
        )
    try:
        order = order_by.key, cursor_format(column.type)
    except TypeError as error:
        raise TypeError(f"The list {name} cannot be ordered by {column}: {error}") from None
    if missing := {order_by.key, "id"} - set(columns.names):
        raise TypeError(f"The list {name} needs the fields {sorted(missing)} in {columns.name}")
    return order


def required_filters(name: str, statement: Select[Any]) -> frozenset[str]:
    """Return the names of the parameters of the statement that have no value yet."""
    parameters = [part for part in iterate(statement) if isinstance(part, BindParameter)]
    if taken := RESERVED & {parameter.key for parameter in parameters}:
        raise TypeError(f"The list {name} cannot have the parameters {sorted(taken)}. Rename them.")
    return frozenset(parameter.key for parameter in parameters if parameter.required)
