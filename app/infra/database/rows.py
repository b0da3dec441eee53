"""Rows that are read and not changed: named tuples, each filled from the columns of its fields."""

from collections.abc import Callable, Iterable, Iterator, Sequence
from functools import partial
from types import NoneType
from typing import Any, Generic, NamedTuple, TypeVar, get_args, get_type_hints

from sqlalchemy import ColumnElement, FromClause, Join, Select
from sqlalchemy.orm import InstrumentedAttribute

from app.infra.database.base import Base

RowT = TypeVar("RowT", bound=tuple[Any, ...])


class _Inner(NamedTuple):
    """A row inside a row. Its values are the ones of `part` among those of the record."""

    columns: "Columns[Any]"
    part: slice
    relationship: InstrumentedAttribute[Any]
    is_optional: bool


class Columns(Generic[RowT]):
    """Which columns fill a row of the type `row`, a `NamedTuple`.

    A field has the value of the attribute of `entity` with the same name, or of the expression that
    is passed under its name. `Columns` that are passed under the name of a relationship to one
    entity fill a row inside the row. Their table is joined: by a LEFT JOIN if the type of the field
    permits None, otherwise by an inner one.

    The `repr` of such a row is shortened to its id: errors that quote the row are logged. Raises
    `TypeError` for a field that nothing fills, and for two rows of one table.
    """

    def __init__(
        self,
        row: type[RowT],
        entity: type[Base],
        **others: "ColumnElement[Any] | InstrumentedAttribute[Any] | Columns[Any]",
    ) -> None:
        self.entity = entity
        self._row: Any = row
        self._row.__repr__ = _show_id  # type: ignore[method-assign]
        names = self.names
        inner = {name: one for name, one in others.items() if isinstance(one, Columns)}
        own = [name for name in names if name not in inner]
        if unknown := others.keys() - set(names):
            raise TypeError(f"{row.__name__} has no field {sorted(unknown)}")
        self._own = {name: self._column(name, others.get(name)) for name in own}
        self._inner: dict[str, _Inner] = {}
        hints, start = get_type_hints(row), len(own)
        for name, columns in inner.items():
            part = slice(start, start := start + len(columns.flat()))
            is_optional = NoneType in get_args(hints[name])
            self._inner[name] = _Inner(columns, part, getattr(entity, name), is_optional)
        self._order = list(map([*own, *inner].index, names))
        # As `_make` does, without a call of Python for each row.
        self._make: Callable[[Any], RowT] = partial(tuple.__new__, row)
        entities = [entity, *(one.columns.entity for one, _ in self.joins())]
        if twice := {one.__name__ for one in entities if entities.count(one) > 1}:
            raise TypeError(f"{row.__name__} can contain only one row of {sorted(twice)}")

    @property
    def name(self) -> str:
        name: str = self._row.__name__
        return name

    @property
    def names(self) -> Sequence[str]:
        """The names of the fields."""
        names: Sequence[str] = self._row._fields
        return names

    def flat(self) -> list[Any]:
        """Return the columns in the order of the values that `to_rows` takes."""
        inner = [column for one in self._inner.values() for column in one.columns.flat()]
        return [*self._own.values(), *inner]

    def by_name(self) -> dict[str, Any]:
        """Return the columns by the names of their fields, those of inner rows as a dict."""
        inner = {name: one.columns.by_name() for name, one in self._inner.items()}
        return {name: inner.get(name, self._own.get(name)) for name in self.names}

    def select(self, statement: Select[Any], *more: ColumnElement[Any]) -> Select[Any]:
        """Return a statement that selects these columns and `more`, instead of what it selected.

        Raises `TypeError` if it joins the table of an inner row itself. Its conditions may name the
        columns of that table without this.
        """
        joined = {table for source in statement.get_final_froms() for table in _joined(source)}
        for one, is_outer in self.joins():
            if one.columns.entity.__table__ in joined:
                raise TypeError(
                    f"The statement joins {one.columns.entity.__name__}, which the columns of "
                    f"{self.name} join already. Leave this join out."
                )
            statement = statement.join(one.columns.entity, one.relationship, isouter=is_outer)
        return statement.with_only_columns(*self.flat(), *more, maintain_column_froms=True)

    @property
    def inner_names(self) -> Sequence[str]:
        """The names of the fields that have rows inside the row."""
        return tuple(self._inner)

    def of_table(self) -> list[Any]:
        """Return the columns without those of inner rows, for RETURNING of an INSERT."""
        return list(self._own.values())

    def to_new_row(self, values: Sequence[Any], inner: Sequence[Any]) -> RowT:
        """Make a row of the values of `of_table` and of its inner rows, in their order."""
        found = (*values, *inner)
        return self._make([found[at] for at in self._order])

    def to_rows(self, records: Iterable[Sequence[Any]]) -> list[RowT]:
        """Make rows of what the statement has returned. Values of other columns are ignored.

        All rows are made at once, column by column, which takes a third of the time.
        """
        columns = list(zip(*records, strict=True))
        if not columns:
            return []
        own = columns[: len(self._own)]
        inner = [_to_inner_rows(one, columns[one.part]) for one in self._inner.values()]
        found = (*own, *inner)
        return list(map(self._make, zip(*[found[at] for at in self._order], strict=True)))

    def joins(self, is_outer: bool = False) -> Iterator[tuple[_Inner, bool]]:
        """Return all inner rows, outer ones first, and whether their join is an outer one.

        If a row may be missing, the rows inside it have outer joins too.
        """
        for one in self._inner.values():
            yield one, is_outer or one.is_optional
            yield from one.columns.joins(is_outer or one.is_optional)

    def _column(self, name: str, other: Any) -> Any:
        if other is not None:
            return other
        if name not in self.entity.__mapper__.columns:
            raise TypeError(
                f"{self.entity.__name__} has no column for the field `{name}` of {self.name}. "
                f"Pass what fills it: Columns({self.name}, {self.entity.__name__}, {name}=…)"
            )
        return getattr(self.entity, name)


def _show_id(row: Any) -> str:
    return f"{type(row).__name__}(id={getattr(row, 'id', '…')})"


def _joined(source: FromClause) -> Iterator[FromClause]:
    """Return what a join consists of, and nothing for a table alone."""
    if isinstance(source, Join):
        for side in (source.left, source.right):
            yield side
            yield from _joined(side)


def _to_inner_rows(inner: _Inner, columns: Sequence[Sequence[Any]]) -> list[Any]:
    """Return None for an outer join that has found nothing: then every column is NULL."""
    records = list(zip(*columns, strict=True))
    rows = inner.columns.to_rows(records)
    if not inner.is_optional:
        return rows
    is_missing = [all(value is None for value in values) for values in records]
    return [None if missing else row for row, missing in zip(rows, is_missing, strict=True)]
