"""What exports read: any number of columns, rows without a partner, times without an end.

They wait for a connection between two batches, but not for ever.
"""

import asyncio
import csv
import io
from collections.abc import AsyncIterator
from contextlib import AsyncExitStack, asynccontextmanager
from datetime import UTC, datetime
from types import SimpleNamespace
from typing import Any

import pytest
from fastapi import FastAPI
from prometheus_client import REGISTRY
from sqlalchemy import Date, LargeBinary, bindparam, cast, func, literal_column, select, text
from sqlalchemy.exc import DBAPIError
from sqlalchemy.ext.asyncio import AsyncEngine
from sqlalchemy.orm import aliased

from app.errors import InvalidRequest, Unavailable
from app.infra.database import export
from app.infra.database.copy import copy_out
from app.infra.database.engine import open_engine
from app.infra.database.export import Export, ExportFormat, ExportReader
from app.infra.database.export_columns import AFTER_ALL, BEFORE_ALL, CURSORS, STORED_MOMENTS
from app.infra.database.pool import PoolExhausted
from app.infra.database.sessions import Database
from app.infra.database.settings import DatabaseSettings
from app.settings import Settings
from tests.application import running
from tests.coherent_cache.worker import eventually
from tests.exports import lines_of, rows_of
from tests.sample.factory import NoteFactory
from tests.sample.notes import EXPORTED_NOTES, NOTES_AND_AUTHORS, Note

PARENT = aliased(Note)
WITH_PARENTS = Export(
    "with_parents",
    select(Note).outerjoin(PARENT, PARENT.id == Note.parent_id),
    Note,
    {"id": Note.id, "parent": {"id": PARENT.id, "title": PARENT.title, "at": PARENT.created_at}},
)
MANY = [f"title_{number}" for number in range(300)]
WITH_MANY_FIELDS = Export("many", NOTES_AND_AUTHORS, Note, dict.fromkeys(MANY, Note.title))
# The last moment that PostgreSQL stores, and times that RFC 3339 cannot express.
MOMENTS = [
    *("-infinity", "-infinity", "4713-11-24 00:00:00Z BC", "0001-01-01 00:00:00Z"),
    *("1999-12-31 23:59:59.999999Z", "2000-01-01 00:00:00Z", "2026-02-28 12:00:00.5Z"),
    *("9999-12-31 23:59:59.999999Z", "12000-01-01 00:00:00Z", "294276-12-31 23:59:59.999999Z"),
    *("infinity", "infinity", "infinity"),
]
FIRST, LAST = "0001-01-01T00:00:00Z", "9999-12-31T23:59:59.999999Z"


@pytest.fixture
def make(app: FastAPI, clean: None) -> NoteFactory:
    return NoteFactory(app.state.resources)


def reader(make: NoteFactory, one: Export, form: ExportFormat) -> ExportReader:
    return ExportReader(one, form, None, {}, make.resources.database, None)


async def whole(found: ExportReader) -> bytearray:
    """Read an export to its end. It would never end if a cursor led back."""
    received = bytearray()
    for _ in range(100):
        if (batch := await found.read()) is None:
            return received
        received += batch
    raise AssertionError("The export does not end.")


async def lines(make: NoteFactory, one: Export) -> list[dict[str, Any]]:
    return lines_of(await whole(reader(make, one, ExportFormat.JSON_LINES)))


async def rows(make: NoteFactory, one: Export) -> list[dict[str, str]]:
    content = await whole(reader(make, one, ExportFormat.CSV))
    return list(csv.DictReader(io.StringIO(content.decode(), newline="")))


async def test_an_export_may_have_any_number_of_fields(make: NoteFactory) -> None:
    note = await make.note(title='A "title"')
    for found in (await lines(make, WITH_MANY_FIELDS), await rows(make, WITH_MANY_FIELDS)):
        [row] = found
        assert list(row) == [*MANY, "cursor"]
        assert {row[name] for name in MANY} == {note.title}


async def test_fields_of_an_outer_join_without_a_partner_are_null(make: NoteFactory) -> None:
    parent = await make.note(title="Parent")
    child = await make.note(parent_id=parent.id)
    [without, partnered] = await lines(make, WITH_PARENTS)
    assert (without["id"], without["parent"]) == (
        parent.id,
        {"id": None, "title": None, "at": None},
    )
    assert (partnered["id"], partnered["parent"]["title"]) == (child.id, "Parent")
    [without_values, _] = await rows(make, WITH_PARENTS)
    assert [without_values[f"parent_{name}"] for name in ("id", "title", "at")] == [""] * 3


async def test_dates_and_truth_values_are_exported_as_json_has_them(make: NoteFactory) -> None:
    for title in ("2026-02-28", "infinity", "0044-03-15 BC"):
        await make.note(title=title)
    fields: Any = {"day": cast(Note.title, Date), "is_first": Note.title == "2026-02-28"}
    export = Export("days", select(Note), Note, fields)
    expected = ["2026-02-28", "9999-12-31", "0001-01-01"]
    found = await lines(make, export)
    assert [line["day"] for line in found] == expected
    assert [line["is_first"] for line in found] == [True, False, False]
    found_rows = await rows(make, export)
    assert [row["day"] for row in found_rows] == expected
    assert [row["is_first"] for row in found_rows] == ["true", "false", "false"]


def test_an_export_with_a_column_that_it_cannot_write_is_refused() -> None:
    fields: Any = {"id": Note.id, "bytes": cast(Note.title, LargeBinary)}
    with pytest.raises(TypeError, match="cannot have a column of the type LargeBinary"):
        Export("bytes", select(Note), Note, fields)


async def test_every_time_is_exported_once_and_as_the_nearest_that_can_be_written(
    make: NoteFactory, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(export, "FIRST_ROWS", 1)  # so that each row is read with a cursor
    monkeypatch.setattr(export, "MAX_ROWS", 1)
    author, ids = await make.user(), []
    for moment in MOMENTS:
        note = await make.note(author)
        ids.append(note.id)
        async with make.resources.database.transaction() as session:
            statement = f"UPDATE test_notes SET created_at = '{moment}' WHERE id = {note.id}"
            await session.execute(text(statement))
    found = await lines(make, EXPORTED_NOTES)
    assert [line["id"] for line in found] == ids
    expected = [
        *([FIRST] * 4),
        *("1999-12-31T23:59:59.999999Z", "2000-01-01T00:00:00Z", "2026-02-28T12:00:00.500000Z"),
        *([LAST] * 6),
    ]
    assert [line["created_at"] for line in found] == expected
    assert [row["created_at"] for row in await rows(make, EXPORTED_NOTES)] == expected


async def test_a_cursor_is_the_one_that_its_format_encodes(make: NoteFactory) -> None:
    at = datetime(2026, 2, 28, 12, 0, 0, 5, tzinfo=UTC)
    note = await make.note(created_at=at)
    [line] = await lines(make, EXPORTED_NOTES)
    start = EXPORTED_NOTES.after(None, {})
    cursor = CURSORS.decode(line["cursor"], start.list_id)
    microseconds = round((at - datetime(2000, 1, 1, tzinfo=UTC)).total_seconds() * 1_000_000)
    assert (cursor.value, cursor.row_id) == (microseconds, note.id)
    assert CURSORS.encode(cursor) == line["cursor"]


async def test_only_the_beginning_of_an_export_has_the_names_of_its_columns(
    make: NoteFactory,
) -> None:
    notes = await make.notes(2)
    content = await whole(reader(make, EXPORTED_NOTES, ExportFormat.CSV))
    names, first, second = content.splitlines(keepends=True)
    assert names.startswith(b"id,")
    cursor = rows_of(bytes(names + first))[0]["cursor"]
    form, database = ExportFormat.CSV, make.resources.database
    rest = await whole(ExportReader(EXPORTED_NOTES, form, cursor, {}, database, None))
    assert rest == second
    assert rest.startswith(f"{notes[1].id},".encode())


@pytest.mark.parametrize(
    "moment", [BEFORE_ALL + 1, STORED_MOMENTS[0] - 1, STORED_MOMENTS[-1] + 1, AFTER_ALL - 1]
)
def test_a_cursor_with_a_time_that_no_row_can_have_is_not_valid(moment: int) -> None:
    start = EXPORTED_NOTES.after(None, {})
    cursor = CURSORS.encode(type(start)(start.list_id, moment, 1))
    with pytest.raises(InvalidRequest) as raised:
        EXPORTED_NOTES.after(cursor, {})
    assert raised.value.code == "invalid_cursor"


@pytest.mark.parametrize(
    ("moment", "rows"),
    [(BEFORE_ALL, 1), (STORED_MOMENTS[0], 1), (STORED_MOMENTS[-1], 0), (AFTER_ALL, 0)],
)
async def test_a_cursor_may_have_any_time_that_postgresql_stores(
    make: NoteFactory, moment: int, rows: int
) -> None:
    await make.note()
    start = EXPORTED_NOTES.after(None, {})
    cursor = CURSORS.encode(type(start)(start.list_id, moment, 1))
    form, database = ExportFormat.JSON_LINES, make.resources.database
    found = await whole(ExportReader(EXPORTED_NOTES, form, cursor, {}, database, None))
    assert len(lines_of(found)) == rows


@pytest.mark.parametrize("filters", [{}, {"title": "a", "count": 1}, {"count": 1}])
def test_missing_and_unknown_filters_are_refused(filters: dict[str, object]) -> None:
    filtered = NOTES_AND_AUTHORS.where(Note.title == bindparam("title"))
    export = Export("notes", filtered, Note, {"title": Note.title})
    with pytest.raises(TypeError, match="has the filters \\['title'\\]"):
        export.after(None, filters)


SPECIAL = ["100 % %(limit)s %%", "\\' OR true --", "'; SELECT 1; --", '"{}"', "$1 :title \\"]


@pytest.fixture
async def backslashes_quote(make: NoteFactory, settings: Settings) -> AsyncIterator[Database]:
    """The same database, but its setting makes a backslash in a text quote what follows it."""
    name = "standard_conforming_strings"
    own, engine = make.resources.database, open_engine(settings.database, "test")
    async with own.transaction() as session:
        database = (await session.scalars(select(func.current_database()))).one()
        await session.execute(text(f'ALTER DATABASE "{database}" SET {name} = off'))
    yield Database(engine)
    await engine.dispose()
    async with own.transaction() as session:
        await session.execute(text(f'ALTER DATABASE "{database}" RESET {name}'))


@pytest.mark.parametrize("title", SPECIAL)
async def test_what_is_special_in_sql_stays_as_it_is(
    make: NoteFactory, backslashes_quote: Database, title: str
) -> None:
    """In filters, in rows and in names. The values of a filter are in the SQL of an export."""
    wanted = await make.note(title=title)
    await make.note()
    name = "in %"
    fields: Any = {"id": Note.id, name: Note.title, "is": Note.title + literal_column("' %s'")}
    filtered = select(Note).where(Note.title == bindparam("title"))
    export = Export("special", filtered, Note, fields)
    for form, read in ((ExportFormat.JSON_LINES, lines_of), (ExportFormat.CSV, rows_of)):
        found = ExportReader(export, form, None, {"title": title}, backslashes_quote, None)
        [row] = read(bytes(await whole(found)))
        assert str(row["id"]) == str(wanted.id)
        assert (row[name], row["is"]) == (title, f"{title} %s")


@pytest.mark.parametrize("may_retry", [True, False])
async def test_replica_decides_whether_its_failure_is_retried_on_the_primary(
    make: NoteFactory, may_retry: bool
) -> None:
    """A batch that takes too long there would take as long on the primary."""
    await make.note()
    away = DatabaseSettings.model_validate({"url": "postgresql://a:b@127.0.0.1:1/x"})
    replica: Any = SimpleNamespace(
        is_up_to_date=True,
        database=Database(open_engine(away, "test")),
        should_retry_on_primary=lambda _error: may_retry,
    )
    form, primary = ExportFormat.JSON_LINES, make.resources.database
    reader = ExportReader(EXPORTED_NOTES, form, None, {}, primary, replica)
    if may_retry:
        assert await reader.read()
    else:
        with pytest.raises(Unavailable):
            await reader.read()


@pytest.fixture
async def impatient(settings: Settings, clean: None) -> AsyncIterator[NoteFactory]:
    """An application whose commands and waits for a connection take little time."""
    values = settings.model_dump()
    values["database"] |= {"pool_size": 2, "pool_timeout_seconds": 0.1}
    values["database"] |= {"command_timeout_seconds": 0.5, "statement_timeout_seconds": 5}
    async with running(Settings.model_validate(values)) as app:
        yield NoteFactory(app.state.resources)


@asynccontextmanager
async def full_pool(make: NoteFactory) -> AsyncIterator[None]:
    """Take all connections of the pool."""
    engine = make.resources.database.engine
    async with AsyncExitStack() as stack:
        for _ in range(engine.pool.size()):  # type: ignore[attr-defined]
            await stack.enter_async_context(engine.connect())
        yield


def refused() -> float:
    return REGISTRY.get_sample_value("database_pool_refused_total") or 0


async def test_an_export_waits_while_the_pool_is_full_between_two_batches(
    impatient: NoteFactory, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(export, "FIRST_ROWS", 2)
    notes = await impatient.notes(3)
    found = reader(impatient, EXPORTED_NOTES, ExportFormat.JSON_LINES)
    received = await found.read()
    assert received is not None
    before = refused()
    async with full_pool(impatient):
        reading = asyncio.create_task(found.read())
        await eventually(lambda: refused() > before)  # an ordinary request would get 503 now
        assert not reading.done()
    received += await reading or b""
    assert [line["id"] for line in lines_of(received)] == [note.id for note in notes]


async def test_an_export_does_not_wait_for_ever_and_its_first_batch_is_refused(
    impatient: NoteFactory, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(export, "FIRST_ROWS", 2)
    await impatient.notes(3)
    found = reader(impatient, EXPORTED_NOTES, ExportFormat.JSON_LINES)
    async with full_pool(impatient):
        before = refused()
        with pytest.raises(PoolExhausted):
            await found.read()
        assert refused() == before + 1
    monkeypatch.setattr(export, "POOL_PATIENCE_SECONDS", 0.1)
    await found.read()
    async with full_pool(impatient):
        with pytest.raises(PoolExhausted):
            await found.read()


async def test_a_batch_has_the_time_of_a_command(impatient: NoteFactory) -> None:
    engine = impatient.resources.database.engine
    with pytest.raises(Unavailable, match="did not answer in time"):
        await copy_out(engine, "COPY slow", "SELECT pg_sleep(4)", bytes)


@pytest.fixture
async def single(settings: Settings, clean: None) -> AsyncIterator[AsyncEngine]:
    """An engine with one connection, so that a test can say what the next export finds there."""
    one = settings.database.model_copy(update={"pool_size": 1})
    engine = open_engine(one, "test")
    yield engine
    await engine.dispose()


async def test_an_export_does_not_get_the_connection_to_a_server_that_became_a_standby(
    single: AsyncEngine,
) -> None:
    """A standby refuses an export that locks its rows, and keeps the connection open."""
    query = "SELECT id FROM test_notes FOR SHARE"
    async with single.begin() as connection:
        await connection.execute(text("SET default_transaction_read_only = on"))
    with pytest.raises(DBAPIError) as raised:
        await copy_out(single, "COPY locked", query, bytes)
    assert getattr(raised.value.orig, "sqlstate", "") == "25006"
    assert raised.value.connection_invalidated  # so that the request may run again
    assert (await copy_out(single, "COPY locked", query, bytes)).rows == 0


END_DURING_COPY = """
    SELECT CASE WHEN number = 5000 THEN pg_terminate_backend(pg_backend_pid()) END
    FROM generate_series(1, 10000) AS number
"""


async def test_an_export_can_be_retried_after_the_server_has_ended_its_connection(
    single: AsyncEngine,
) -> None:
    with pytest.raises(DBAPIError) as raised:
        await copy_out(single, "COPY ended", END_DURING_COPY, bytes)
    assert raised.value.connection_invalidated
    assert (await copy_out(single, "COPY next", "SELECT 1", bytes)).text == b"1\n"
