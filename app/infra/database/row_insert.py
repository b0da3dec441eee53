"""Inserts rows, and returns them as the database has stored them."""

from typing import Generic, cast

from sqlalchemy import Table
from sqlalchemy.ext.asyncio import AsyncSession

from app.infra.database.rows import Columns, RowT


class RowInsert(Generic[RowT]):
    """An INSERT of one row, which takes less than half of the time of `add(…)` and `flush()`."""

    def __init__(self, columns: Columns[RowT]) -> None:
        self._columns = columns
        table = cast("Table", columns.entity.__table__)
        self._statement = table.insert().returning(*columns.of_table())

    async def one(self, session: AsyncSession, **values: object) -> RowT:
        """Insert a row with the values of its columns, and return it.

        An inner row is not read: pass it by its name, `author=AuthorRow(…)`. What the session has
        added or changed before is written first. Raises `IntegrityError` for a row that breaks a
        constraint, and `TypeError` without an inner row or in a session for reading.
        """
        if session.new or session.dirty or session.deleted:
            await session.flush()
        if missing := set(self._columns.inner_names) - values.keys():
            raise TypeError(f"{self._columns.name} needs {', '.join(sorted(missing))}")
        inner = [values.pop(name) for name in self._columns.inner_names]
        found = (await session.execute(self._statement, values)).one()
        return self._columns.to_new_row(found, inner)
