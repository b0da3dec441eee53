"""Queries for rows. Their SQL is built once, and the driver sends it.

For each statement a session builds its SQL or a key for it, an object for each row and each entity,
and a transaction. A list of 20 rows takes a fifth of the time without them.
"""

from collections.abc import Callable, Mapping, Sequence
from functools import cached_property
from typing import Any, Generic

from sqlalchemy import Dialect, Select, literal_column
from sqlalchemy.dialects.postgresql.asyncpg import dialect
from sqlalchemy.exc import InvalidRequestError
from sqlalchemy.ext.asyncio import AsyncEngine, AsyncSession
from sqlalchemy.sql.dml import ReturningInsert
from sqlalchemy.types import TypeEngine

from app.infra.database.driver import fetch
from app.infra.database.rows import Columns, RowT
from app.infra.database.sessions import Database, idle_read_engine

# With the module of the driver, which converters of some types need.
DIALECT: Dialect = dialect(dbapi=dialect.import_dbapi())  # type: ignore[no-untyped-call]
NUMERIC, DOUBLE_PRECISION = 1700, 701  # the OIDs of types of PostgreSQL

# A query that is sent to a database has a connection and a snapshot of its own. A session for one
# query would take longer.
Source = AsyncSession | Database
Values = Sequence[Any]
Converter = Callable[[Any], Any]


class RowQuery(Generic[RowT]):
    """A SELECT for rows. `statement` selects from the entity of `columns`, as `select(Post)` does.

    Its SQL is built at its first use. `column.in_(bindparam(…))` has other SQL for each number of
    values, so a session sends that: `column == any_(bindparam(…))` is faster.
    """

    def __init__(self, columns: Columns[RowT], statement: Select[Any]) -> None:
        self._to_rows = columns.to_rows
        self._query = CompiledQuery(columns.select(statement))

    async def all(
        self, source: Source, *, limit: int | None = None, **parameters: object
    ) -> list[RowT]:
        """Return all rows, or the first ones."""
        found = await self._query.fetch(source, parameters, limit=limit)
        return self._to_rows(found)

    async def first(self, source: Source, **parameters: object) -> RowT | None:
        """Return the first row, or None without one."""
        found = await self._query.fetch(source, parameters)
        return self._to_rows(found[:1])[0] if found else None


class CompiledQuery:
    """A SELECT whose SQL is built once, and once for each LIMIT."""

    def __init__(self, statement: Select[Any]) -> None:
        self.statement = statement
        self._limited: dict[int, CompiledQuery] = {}

    async def fetch(
        self, source: Source, parameters: Mapping[str, Any], *, limit: int | None = None
    ) -> Sequence[Values]:
        """Return the values of each row. The caller bounds how many values `limit` may have.

        In a session for reading that has no connection, the statement has one for itself, and gives
        it back at once. Otherwise it is a statement of the session, and of its transaction.
        """
        query = self if limit is None else self._with_limit(limit)
        sql = query.sql
        if isinstance(source, Database):
            if sql.is_fixed:
                return await sql.fetch(source.read_engine, parameters)
            async with source.read() as session:
                return await query.fetch(session, parameters)
        if sql.is_fixed:
            with idle_read_engine(source) as engine:
                if engine is not None:
                    return await sql.fetch(engine, parameters)
        found: Sequence[Values] = (await source.execute(query.statement, parameters)).all()
        return found

    def _with_limit(self, limit: int) -> "CompiledQuery":
        """LIMIT is a literal: as a parameter, PostgreSQL would plan the statement each time."""
        if (query := self._limited.get(limit)) is None:
            query = CompiledQuery(self.statement.limit(literal_column(str(limit))))
            self._limited[limit] = query
        return query

    @cached_property
    def sql(self) -> "FixedSql":
        return FixedSql(self.statement)


class FixedSql:
    """The SQL of a statement, and what converts its parameters and its results."""

    def __init__(
        self, statement: Select[Any] | ReturningInsert[Any], names: Sequence[str] | None = None
    ) -> None:
        """`names` are the columns that an INSERT gets values for."""
        compiled = statement.compile(dialect=DIALECT, column_keys=names)
        self.text = compiled.string
        # Others are replaced when the statement is sent.
        self.is_fixed = not any(
            parameter.expanding or parameter.literal_execute
            for parameter in compiled.binds.values()
        )
        self._parameters = [
            (compiled.binds[name], _bind_processor(compiled.binds[name].type))
            for name in compiled.positiontup or ()
        ]
        results = [_result_processor(column.type) for column in statement.exported_columns]
        self._results = results if any(results) else None

    async def fetch(self, engine: AsyncEngine, parameters: Mapping[str, Any]) -> Sequence[Values]:
        """Run the statement outside a transaction, and return its rows."""
        return self.rows(await fetch(engine, self.text, *self.values(parameters)))

    def values(self, parameters: Mapping[str, Any]) -> Values:
        """Return the values of the parameters of the SQL, in its order."""
        values = []
        for parameter, convert in self._parameters:
            name = parameter.key
            if name in parameters:
                value = parameters[name]
            elif parameter.required:
                raise InvalidRequestError(
                    f"The statement needs a value for its parameter `{name}`: {self.text}"
                )
            else:
                value = parameter.effective_value
            values.append(value if convert is None else convert(value))
        return values

    def rows(self, records: Sequence[Values]) -> Sequence[Values]:
        """Convert what the driver has returned to the types of the columns."""
        if (results := self._results) is None:
            return records
        return [
            [
                value if convert is None else convert(value)
                for value, convert in zip(record, results, strict=True)
            ]
            for record in records
        ]


def _bind_processor(kind: TypeEngine[Any]) -> Converter | None:
    return kind.dialect_impl(DIALECT).bind_processor(DIALECT)


def _result_processor(kind: TypeEngine[Any]) -> Converter | None:
    """Return the converter of a type. Numbers have one for each type that PostgreSQL may send."""
    implementation = kind.dialect_impl(DIALECT)
    of_numeric = implementation.result_processor(DIALECT, NUMERIC)
    of_double = implementation.result_processor(DIALECT, DOUBLE_PRECISION)
    if of_numeric is None and of_double is None:
        return None

    def convert(value: Any) -> Any:
        chosen = of_double if isinstance(value, float) else of_numeric
        return value if chosen is None else chosen(value)

    return convert
