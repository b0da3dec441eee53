"""The SQL that writes the columns of an export as JSON, or as the text in CSV, and its cursors.

JSON is concatenated, because that is twice as fast as `row_to_json`.
"""

from base64 import b64encode
from collections.abc import Collection, Iterator, Mapping, Sequence
from dataclasses import replace
from datetime import UTC, date, datetime
from typing import Any, Union

from sqlalchemy import (
    BigInteger,
    Boolean,
    ColumnElement,
    Date,
    DateTime,
    Float,
    Integer,
    Numeric,
    Select,
    String,
    Text,
    Uuid,
    bindparam,
    case,
    cast,
    func,
    literal,
    literal_column,
)
from sqlalchemy.dialects import postgresql
from sqlalchemy.ext.compiler import compiles
from sqlalchemy.orm import InstrumentedAttribute
from sqlalchemy.sql.compiler import SQLCompiler
from sqlalchemy.types import TypeEngine

from app.infra.database.cursors import HEAD, VERSION, WIDE, Cursor, cursor_format

Fields = Mapping[str, Union[InstrumentedAttribute[Any], "Fields"]]

# The value of a cursor is what `timestamptz_send` returns: microseconds since 2000, or infinity.
BEFORE_ALL, AFTER_ALL = -(2**63), 2**63 - 1
# From 4714 BC to before the year 294277, what PostgreSQL can store.
STORED_MOMENTS = range(-211_813_488_000_000_000, 9_223_371_331_200_000_000)


def _unpack_moment(data: bytes) -> int:
    (moment,) = WIDE.unpack(data)
    if moment not in STORED_MOMENTS and moment not in (BEFORE_ALL, AFTER_ALL):
        raise ValueError("PostgreSQL cannot store this time")
    return int(moment)


CURSORS = replace(cursor_format(BigInteger()), unpack=_unpack_moment)
# It doubles each %, except in hints and in constants of bytes, which an export cannot use.
DIALECT = postgresql.dialect(paramstyle="pyformat")  # type: ignore[no-untyped-call]
RFC_3339 = 'YYYY-MM-DD"T"HH24:MI:SS.US"Z"'
FIRST_MOMENT = datetime.min.replace(tzinfo=UTC)
LAST_MOMENT = datetime.max.replace(tzinfo=UTC)


def flatten(fields: Fields, prefix: str = "") -> Iterator[tuple[str, InstrumentedAttribute[Any]]]:
    for name, field in fields.items():
        if isinstance(field, Mapping):
            yield from flatten(field, f"{prefix}{name}_")
        else:
            yield f"{prefix}{name}", field


def size_of(columns: Collection[InstrumentedAttribute[Any]]) -> ColumnElement[int]:
    """Return the bytes of the texts of a row. PostgreSQL knows them without reading the texts."""
    texts = [column for column in columns if isinstance(column.type, String)]
    sizes = [func.coalesce(func.octet_length(text), 0) for text in texts]
    return sum(sizes, start=literal_column("100", Integer))  # and something for the others


def json_line(fields: Fields, columns: Any, cursor: ColumnElement[str]) -> ColumnElement[str]:
    """Return the SQL of a whole line, whose last member is the cursor."""
    members = list(_json_members(fields, columns, ""))
    return _joined([*members, _literal(',"cursor":"'), cursor, _literal('"}')])


def csv_columns(names: Collection[str], columns: Any) -> list[ColumnElement[Any]]:
    return [_csv(columns[name], name) for name in names]


def _literal(text: str) -> ColumnElement[str]:
    return literal_column(f"'{text}'", Text)


def _joined(parts: Sequence[ColumnElement[str]]) -> ColumnElement[str]:
    """Concatenate in halves: `concat` takes 100 arguments, and a chain copies a line for each."""
    if len(parts) == 1:
        return parts[0]
    middle = len(parts) // 2
    return _joined(parts[:middle]).op("||")(_joined(parts[middle:]))


def _json_members(fields: Fields, columns: Any, prefix: str) -> Iterator[ColumnElement[str]]:
    """Return the parts of a JSON object, without its closing brace."""
    for number, (name, field) in enumerate(fields.items()):
        yield _literal(f'{"," if number else "{"}"{name}":')
        if isinstance(field, Mapping):
            yield from _json_members(field, columns, f"{prefix}{name}_")
            yield _literal("}")
        else:
            yield _json(columns[prefix + name])


def _json(column: ColumnElement[Any]) -> ColumnElement[str]:
    """Return the SQL that writes a column as the API does.

    A column that is NOT NULL may be null as well, through an outer join.
    """
    value: ColumnElement[Any]
    match column.type:
        case Integer() | Boolean():
            value = cast(column, Text)
        case DateTime(timezone=True):
            value = _literal('"').op("||")(_text(column)).op("||")(_literal('"'))
        case Date() | Uuid() | String():
            value = cast(func.to_json(_text(column)), Text)
        case Numeric(asdecimal=True) if not isinstance(column.type, Float):
            value = cast(func.to_json(cast(column, Text)), Text)
        case _:
            raise TypeError(f"An export cannot have a column of the type {column.type!r}")
    return func.coalesce(value, "null")


def _text(column: ColumnElement[Any]) -> ColumnElement[Any]:
    match column.type:
        case Date():
            return _limited(column, date.min, date.max)
        case DateTime():
            # Like the API: in UTC, with microseconds if there are any.
            moment = func.timezone("UTC", _limited(column, FIRST_MOMENT, LAST_MOMENT))
            return func.replace(func.to_char(moment, RFC_3339), ".000000Z", "Z")
    return column


def _limited(column: ColumnElement[Any], first: date, last: date) -> ColumnElement[Any]:
    """Return what RFC 3339 can express. PostgreSQL stores other years too, and infinity."""
    lowest, highest = (literal(limit, column.type) for limit in (first, last))
    return case((column < lowest, lowest), (column > highest, highest), else_=column)


def _csv(column: ColumnElement[Any], name: str) -> ColumnElement[Any]:
    is_bool = isinstance(column.type, Boolean)
    return (cast(column, Text) if is_bool else _text(column)).label(name)


def cursor_of(moment: ColumnElement[Any], row_id: ColumnElement[Any]) -> ColumnElement[str]:
    """Return the SQL of `CursorFormat.encode`, which needs the head that `compiled` writes."""
    packed = func.timestamptz_send(moment).op("||")(func.int8send(row_id))
    # 16 bytes. The six bytes before them are the same in all cursors of an export.
    encoded: ColumnElement[str] = func.left(func.encode(packed, "base64"), 22)
    for character, replacement in (("+", "-"), ("/", "_")):  # faster than translate()
        encoded = func.replace(encoded, character, replacement)
    return bindparam("keyset_head", type_=Text).op("||")(encoded)


class Blank(ColumnElement[Any]):
    """A place in the SQL for a value of a batch: COPY has no parameters.

    `sql % values_of_batch(cursor, limit)` fills it. Compiling the SQL anew takes milliseconds.
    """

    def __init__(self, name: str, kind: TypeEngine[Any]) -> None:
        self.name, self.type = name, kind


@compiles(Blank)
def _compile_blank(blank: Blank, _compiler: SQLCompiler, **_options: object) -> str:
    return f"%({blank.name})s"


AFTER_MOMENT = Blank("after_moment", DateTime(timezone=True))
AFTER_ID, LIMIT = Blank("after_id", BigInteger()), Blank("limit", Integer())


def compiled(query: Select[Any], list_id: bytes, filters: Mapping[str, object]) -> str:
    """Return the SQL of all batches of an export, with its filters in it, and with blanks."""
    head = b64encode(HEAD.pack(VERSION, False, list_id), b"-_").decode()
    query = query.params({**filters, "keyset_head": head})
    return str(query.compile(dialect=DIALECT, compile_kwargs={"literal_binds": True}))


def values_of_batch(cursor: Cursor, limit: int) -> dict[str, str]:
    """Return what the blanks are filled with, for at most `limit` rows after the cursor."""
    moment = {BEFORE_ALL: "timestamptz '-infinity'", AFTER_ALL: "timestamptz 'infinity'"}.get(
        cursor.value,
        f"timestamptz '2000-01-01 00:00:00Z' + interval '{cursor.value:d} microseconds'",
    )
    return {"after_moment": moment, "after_id": f"{cursor.row_id:d}", "limit": f"{limit:d}"}
