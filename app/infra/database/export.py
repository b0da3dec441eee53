"""Exports of whole tables, oldest rows first, as JSON Lines or CSV that PostgreSQL itself writes.

An export is read in batches. Each is one COPY, which begins after the last row of the batch before
it, like a page of a list (see pagination.py). Between two batches an export holds no connection and
no snapshot, so a slow reader costs the database nothing. A batch is limited in rows and in bytes.

Every line ends with its own cursor. A client that was cut off goes on after the last line that it
has received completely.
"""

import time
from collections.abc import Mapping
from enum import Enum
from typing import Any

from sqlalchemy import Select, func, select, tuple_
from sqlalchemy.exc import DBAPIError

from app.errors import Unavailable
from app.infra.database.base import Base
from app.infra.database.copy import Copied, copy_out
from app.infra.database.cursors import Cursor, list_identity
from app.infra.database.export_columns import (
    AFTER_ID,
    AFTER_MOMENT,
    BEFORE_ALL,
    CURSORS,
    LIMIT,
    Fields,
    compiled,
    csv_columns,
    cursor_of,
    flatten,
    json_line,
    size_of,
    values_of_batch,
)
from app.infra.database.pagination import required_filters
from app.infra.database.pool import PoolExhausted
from app.infra.database.replica import Replica
from app.infra.database.sessions import Database
from app.infra.observability.metrics import REPLICA_READS

MAX_ROWS, FIRST_ROWS = 10_000, 1_000
# The text of the rows of a batch, before it is escaped. One row may exceed it.
MAX_BYTES = 2 * 1024 * 1024
# How long an export waits for a free connection between two batches. Proxies wait for 30 s.
POOL_PATIENCE_SECONDS = 20.0
CURSOR_LENGTH = len(CURSORS.encode(Cursor(b"list", 0, 0)))
# JSON may contain these as they are, but many programs take them for the end of a line.
LINE_ENDS = {character: f"\\u{ord(character):04x}" for character in "\x85\u2028\u2029"}


class ExportFormat(Enum):
    """How the lines of an export are written. The values are the options of COPY."""

    # JSON contains no control characters, so with these COPY changes nothing in a line.
    JSON_LINES = {"format": "csv", "delimiter": "\x02", "quote": "\x01"}  # noqa: RUF012 - an enum
    CSV = {"format": "csv"}  # noqa: RUF012


class Export:
    """An export of the rows that `statement` selects. Its SQL is built once, at import.

    `row` is the model of the rows. `fields` are their columns, by the names that clients see. The
    fields of a nested mapping are an object in JSON, and columns `name_field` in CSV. The bind
    parameters of `statement` are filters, as those of a `KeysetList`.
    """

    def __init__(self, name: str, statement: Select[Any], row: type[Base], fields: Fields) -> None:
        self.name, self.table = name, row.__tablename__
        self.filters = required_filters(name, statement)
        self._identity = f"{name}/export"
        columns = dict(flatten(fields))
        size = size_of(columns.values())
        before = func.sum(size).over(order_by=(row.created_at, row.id), rows=(None, 0)) - size
        batch = (
            statement.with_only_columns(
                *(column.label(name) for name, column in columns.items()),
                row.created_at.label("keyset_value"),
                row.id.label("keyset_id"),
                before.label("keyset_bytes"),
                maintain_column_froms=True,
            )
            .where(tuple_(row.created_at, row.id) > tuple_(AFTER_MOMENT, AFTER_ID))
            .order_by(row.created_at, row.id)
            .limit(LIMIT)
            .subquery()
        )
        cursor = cursor_of(batch.c.keyset_value, batch.c.keyset_id)
        lines = {
            ExportFormat.JSON_LINES: [json_line(fields, batch.c, cursor)],
            ExportFormat.CSV: [*csv_columns(columns, batch.c), cursor.label("cursor")],
        }
        self._statements = {
            form: select(*line)
            .where(batch.c.keyset_bytes < MAX_BYTES)
            .order_by(batch.c.keyset_value, batch.c.keyset_id)
            for form, line in lines.items()
        }

    def after(self, cursor: str | None, filters: Mapping[str, object]) -> Cursor:
        """Return the position that a client goes on from, or raise `InvalidRequest`."""
        if filters.keys() != self.filters:
            raise TypeError(f"The export {self.name} has the filters {sorted(self.filters)}")
        list_id = list_identity(self._identity, filters)
        return Cursor(list_id, BEFORE_ALL, 0) if cursor is None else CURSORS.decode(cursor, list_id)

    def sql(self, form: ExportFormat, list_id: bytes, filters: Mapping[str, object]) -> str:
        """Return the query of all batches. `values_of_batch` returns what its blanks are."""
        return compiled(self._statements[form], list_id, filters)


class ExportReader:
    """Reads one export to its end, from the replica while there is one that is up to date."""

    def __init__(
        self,
        export: Export,
        form: ExportFormat,
        cursor: str | None,
        filters: Mapping[str, object],
        database: Database,
        replica: Replica | None,
    ) -> None:
        self._after = export.after(cursor, filters)
        self._sql = export.sql(form, self._after.list_id, filters)
        self._name, self._form = f"COPY {export.name}", form
        self._database, self._replica = database, replica
        self._limit = FIRST_ROWS
        self._patience_seconds = 0.0  # the first batch can be refused
        self._header = form is ExportFormat.CSV and cursor is None

    async def read(self) -> bytearray | None:
        """Return the next lines, or None after the last one.

        Raises `Unavailable` and `DBAPIError`.
        """
        copied = await self._read_patiently()
        self._header, self._patience_seconds = False, POOL_PATIENCE_SECONDS
        if not copied.text:
            return None
        if copied.rows:
            # After a batch that was limited by its bytes, few more rows are tried than it had: the
            # rows that do not fit are read in vain.
            was_full = copied.rows < self._limit
            more = copied.rows // 8 + 1 if was_full else copied.rows
            self._limit = min(MAX_ROWS, copied.rows + more)
            end = bytes(copied.text[-CURSOR_LENGTH - 3 :]).rstrip(b'"}\n')
            cursor = end[-CURSOR_LENGTH:].decode()
            self._after = CURSORS.decode(cursor, self._after.list_id)
        return copied.text

    async def _read_patiently(self) -> Copied:
        """Read a batch. A full pool is no reason to cut a response off that has begun."""
        until = time.monotonic() + self._patience_seconds
        while True:
            try:
                return await self._read_batch()
            except PoolExhausted:
                if time.monotonic() >= until:
                    raise

    async def _read_batch(self) -> Copied:
        replica = self._replica
        if replica is not None and replica.is_up_to_date:
            REPLICA_READS.labels("replica").inc()
            try:
                return await self._read_from(replica.database)
            except (Unavailable, DBAPIError) as error:
                if not replica.should_retry_on_primary(error):
                    raise
        REPLICA_READS.labels("primary").inc()
        return await self._read_from(self._database)

    async def _read_from(self, database: Database) -> Copied:
        sql = self._sql % values_of_batch(self._after, self._limit)
        options = {**self._form.value, "header": True} if self._header else self._form.value
        convert = _escape_line_ends if self._form is ExportFormat.JSON_LINES else bytes
        return await copy_out(database.engine, self._name, sql, convert, **options)


def _escape_line_ends(lines: bytes) -> bytes:
    """Search for characters in a decoded text, which is much faster than for several bytes."""
    if lines.isascii():
        return lines
    text = lines.decode()
    if not any(character in text for character in LINE_ENDS):
        return lines
    for character, escape in LINE_ENDS.items():
        text = text.replace(character, escape)
    return text.encode()
