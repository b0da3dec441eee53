"""Rows are the same whoever sends their statement, and failures are those of a session."""

import asyncio
import traceback
from collections.abc import AsyncIterator
from datetime import timedelta
from decimal import Decimal
from typing import Any, NamedTuple
from uuid import UUID

import pytest
from sqlalchemy import (
    JSON,
    Enum,
    Float,
    ForeignKey,
    MetaData,
    Numeric,
    String,
    any_,
    bindparam,
    func,
    insert,
    select,
    text,
)
from sqlalchemy.dialects.postgresql import ARRAY, INT4RANGE, JSONB, Range
from sqlalchemy.exc import DBAPIError, InvalidRequestError
from sqlalchemy.orm import Mapped, mapped_column, relationship

from app.features.users.models import User
from app.features.users.queries import AUTHOR_COLUMNS
from app.infra.database.base import Base
from app.infra.database.driver import fetch
from app.infra.database.engine import open_engine
from app.infra.database.error_mapping import is_safe_to_retry
from app.infra.database.pool import FifoPool
from app.infra.database.row_query import RowQuery
from app.infra.database.rows import Columns
from app.infra.database.settings import DatabaseSettings
from app.infra.resources import ProcessResources
from app.infra.validation.fields import Choice
from app.settings import Settings
from tests.application import recorded_statements, running
from tests.sample.factory import NoteFactory
from tests.sample.notes import NOTE_BY_ID, NOTES, Note


class Kind(Choice):
    LARGE = "large"
    SMALL = "small"


class Separate(Base):
    """The tables of this module are not among those of the service."""

    __abstract__ = True
    metadata = MetaData()


class Shelf(Separate):
    __tablename__ = "test_shelves"

    label: Mapped[str]


class Parcel(Separate):
    __tablename__ = "test_parcels"

    shelf_id: Mapped[int | None] = mapped_column(ForeignKey(Shelf.id))
    kind: Mapped[Kind]
    by_name: Mapped[Kind] = mapped_column(Enum(Kind, native_enum=False, name="by_name"))
    price: Mapped[Decimal] = mapped_column(Numeric(12, 2))
    rate: Mapped[float] = mapped_column(Float)
    ratio: Mapped[float] = mapped_column(Numeric(12, 2, asdecimal=False))
    details: Mapped[dict[str, Any]] = mapped_column(JSON)
    extra: Mapped[dict[str, Any] | None] = mapped_column(JSONB)
    words: Mapped[list[str]] = mapped_column(ARRAY(String))
    prices: Mapped[list[Decimal]] = mapped_column(ARRAY(Numeric(12, 2)))
    code: Mapped[UUID]
    wait: Mapped[timedelta]
    sizes: Mapped[Range[int]] = mapped_column(INT4RANGE)

    shelf: Mapped[Shelf | None] = relationship(lazy="raise")


class Label(Separate):
    __tablename__ = "test_labels"

    parcel_id: Mapped[int | None] = mapped_column(ForeignKey(Parcel.id))
    shelf_id: Mapped[int | None] = mapped_column(ForeignKey(Shelf.id))
    parcel: Mapped[Parcel | None] = relationship(lazy="raise")
    shelf: Mapped[Shelf | None] = relationship(lazy="raise")


class ShelfRow(NamedTuple):
    id: int
    label: str


class ParcelRow(NamedTuple):
    id: int
    shelf: ShelfRow | None
    kind: Kind
    by_name: Kind
    price: Decimal
    rate: float
    ratio: float
    details: dict[str, Any]
    extra: dict[str, Any] | None
    words: list[str]
    prices: list[Decimal]
    code: UUID
    wait: timedelta
    sizes: Range[int]
    length: int
    as_float: float
    as_decimal: Decimal


class PlacedRow(NamedTuple):
    id: int
    shelf: ShelfRow


class LabelRow(NamedTuple):
    id: int
    parcel: PlacedRow | None


SHELF = Columns(ShelfRow, Shelf)
PARCEL = Columns(
    ParcelRow,
    Parcel,
    shelf=SHELF,
    length=func.cardinality(Parcel.words),
    as_float=func.abs(Parcel.price, type_=Float),  # PostgreSQL sends `numeric`
    as_decimal=Parcel.price * Parcel.rate,  # and here `double precision`
)
PLACED = Columns(PlacedRow, Parcel, shelf=SHELF)
LABEL = Columns(LabelRow, Label, parcel=PLACED)
PARCELS = RowQuery(PARCEL, select(Parcel).order_by(Parcel.id))
VALUES: dict[str, Any] = {
    "kind": Kind.SMALL,
    "by_name": Kind.LARGE,
    "price": Decimal("1.50"),
    "rate": 0.1,
    "ratio": 2.5,
    "details": {"a": [1, None]},
    "extra": None,
    "words": ["x", "y"],
    "prices": [Decimal("0.10")],
    "code": UUID(int=7),
    "wait": timedelta(minutes=5),
    "sizes": Range(1, 5),
}
COMPUTED: dict[str, Any] = {"length": 2, "as_float": 1.5, "as_decimal": Decimal("0.15")}


@pytest.fixture
async def parcels(resources: ProcessResources) -> AsyncIterator[None]:
    async with resources.database.engine.begin() as connection:
        await connection.run_sync(Separate.metadata.create_all)
        await connection.execute(insert(Shelf).values(id=1, label="top"))
        await connection.execute(insert(Parcel).values(id=1, shelf_id=1, **VALUES))
        await connection.execute(insert(Parcel).values(id=2, shelf_id=None, **VALUES))
    yield
    async with resources.database.engine.begin() as connection:
        await connection.run_sync(Separate.metadata.drop_all)


async def test_rows_have_the_types_of_their_columns(
    resources: ProcessResources, parcels: None
) -> None:
    expected = [
        ParcelRow(id=1, shelf=ShelfRow(1, "top"), **VALUES, **COMPUTED),
        ParcelRow(id=2, shelf=None, **VALUES, **COMPUTED),
    ]
    async with resources.database.read() as session:
        sent_by_driver = await PARCELS.all(session)
        await session.execute(text("SELECT 1"))
        sent_by_session = await PARCELS.all(session)
    assert sent_by_driver == sent_by_session == expected
    for row in sent_by_driver:
        assert all(map(isinstance, row, map(type, expected[row.id - 1])))


async def test_a_parameter_has_the_type_of_its_column(
    resources: ProcessResources, parcels: None
) -> None:
    by_kind = select(Parcel).where(Parcel.kind == bindparam("kind"), Parcel.price > 1)
    query = RowQuery(PARCEL, by_kind.order_by(Parcel.id.desc()))
    async with resources.database.read() as session:
        assert [row.id for row in await query.all(session, kind=Kind.SMALL)] == [2, 1]
        assert await query.all(session, kind=Kind.LARGE) == []
        assert [row.id for row in await query.all(session, kind=Kind.SMALL, limit=1)] == [2]
        assert await query.first(session, kind=Kind.LARGE) is None


async def test_a_parameter_with_a_default_may_be_passed(
    resources: ProcessResources, parcels: None
) -> None:
    query = RowQuery(PARCEL, select(Parcel).where(Parcel.id == bindparam("parcel_id", 1)))
    async with resources.database.read() as session:
        assert [row.id for row in await query.all(session)] == [1]
        assert [row.id for row in await query.all(session, parcel_id=2)] == [2]


async def test_a_parameter_is_converted_by_the_module_of_the_driver(
    resources: ProcessResources, parcels: None
) -> None:
    query = RowQuery(PARCEL, select(Parcel).where(Parcel.sizes == bindparam("sizes")))
    async with resources.database.read() as session:
        assert len(await query.all(session, sizes=Range(1, 5))) == 2
        assert await query.all(session, sizes=Range(1, 6)) == []


async def test_a_row_may_contain_a_row_that_contains_one(
    resources: ProcessResources, parcels: None
) -> None:
    async with resources.database.transaction() as session:
        await session.execute(insert(Shelf).values(id=2, label="other"))
        await session.execute(insert(Label).values(id=1, parcel_id=1))
        await session.execute(insert(Label).values(id=2, parcel_id=None))
    query = RowQuery(LABEL, select(Label).order_by(Label.id))
    async with resources.database.read() as session:
        found = await query.all(session)
    placed = PlacedRow(id=1, shelf=ShelfRow(1, "top"))
    assert found == [LabelRow(id=1, parcel=placed), LabelRow(id=2, parcel=None)]


async def test_the_only_field_of_a_row_may_be_a_row(
    resources: ProcessResources, parcels: None
) -> None:
    class Place(NamedTuple):
        shelf: ShelfRow | None

    query = RowQuery(Columns(Place, Parcel, shelf=SHELF), select(Parcel).order_by(Parcel.id))
    assert await query.all(resources.database) == [Place(ShelfRow(1, "top")), Place(None)]


def test_two_rows_of_one_table_are_refused_at_import() -> None:
    class Wrong(NamedTuple):
        shelf: ShelfRow
        parcel: PlacedRow

    with pytest.raises(TypeError, match=r"Wrong can contain only one row of \['Shelf'\]"):
        Columns(Wrong, Label, shelf=SHELF, parcel=PLACED)


async def test_a_parameter_may_have_many_values(resources: ProcessResources, parcels: None) -> None:
    expanded = RowQuery(PARCEL, select(Parcel).where(Parcel.id.in_(bindparam("ids"))))
    any_of = RowQuery(PARCEL, select(Parcel).where(Parcel.id == any_(bindparam("ids"))))
    async with resources.database.read() as session:
        for query in (any_of, expanded):
            assert [row.id for row in await query.all(session, ids=[2, 3])] == [2]


async def test_a_query_of_a_database_needs_no_session(
    resources: ProcessResources, parcels: None
) -> None:
    expanded = RowQuery(PARCEL, select(Parcel).where(Parcel.id.in_(bindparam("ids"))))
    any_of = RowQuery(PARCEL, select(Parcel).where(Parcel.id == any_(bindparam("ids"))))
    pool = resources.database.engine.pool
    assert isinstance(pool, FifoPool)
    for query in (any_of, expanded):
        rows = await query.all(resources.database, ids=[2, 3], limit=1)
        assert [row.id for row in rows] == [2]
        assert await query.first(resources.database, ids=[3]) is None
        assert pool.checkedout() == 0


async def test_a_transaction_reads_what_it_has_written(
    resources: ProcessResources, make: NoteFactory
) -> None:
    note = await make.note(await make.user(), title="before")
    async with resources.database.transaction() as session:
        changed = await session.get_one(Note, note.id)
        changed.title = "after"
        read = await NOTE_BY_ID.first(session, note_id=note.id)
        assert read is not None
        assert read.title == "after"


async def test_a_read_session_uses_one_connection_at_a_time(
    resources: ProcessResources, make: NoteFactory
) -> None:
    note = await make.note(await make.user())
    pool = resources.database.engine.pool
    assert isinstance(pool, FifoPool)
    async with resources.database.read() as session:
        await NOTE_BY_ID.first(session, note_id=note.id)
        assert pool.checkedout() == 0
        await session.scalar(NOTES)
        held = pool.checkedout()
        with recorded_statements(resources) as sent:
            await NOTE_BY_ID.first(session, note_id=note.id)
        assert len(sent) == 1
        assert pool.checkedout() == held == 1


async def test_a_closed_session_reads_no_rows(resources: ProcessResources) -> None:
    async with resources.database.read() as for_reading, resources.database.transaction() as other:
        pass
    for session in (for_reading, other):
        with pytest.raises(InvalidRequestError, match="closed"):
            await NOTE_BY_ID.first(session, note_id=1)


async def test_a_read_session_refuses_a_second_task(
    resources: ProcessResources, make: NoteFactory
) -> None:
    await make.user()
    pool = resources.database.engine.pool
    assert isinstance(pool, FifoPool)
    async with resources.database.read() as session:
        task = asyncio.create_task(SLOW.all(session))
        while not pool.checkedout():
            await asyncio.sleep(0.01)
        for second in (NOTE_BY_ID.first(session, note_id=1), session.scalar(NOTES)):
            with pytest.raises(InvalidRequestError, match="belongs to one task"):
                await second
        assert pool.checkedout() == 1
        task.cancel()
        with pytest.raises(asyncio.CancelledError):
            await task
        assert await NOTE_BY_ID.first(session, note_id=1) is None


async def test_an_error_names_the_parameter_that_is_missing(resources: ProcessResources) -> None:
    async with resources.database.read() as session:
        with pytest.raises(InvalidRequestError, match="its parameter `note_id`: SELECT"):
            await NOTE_BY_ID.first(session)


SECRET = "a-private-text"
AS_NUMBER = text("SELECT CAST(CAST(:value AS text) AS integer)")


async def test_no_error_quotes_a_value(resources: ProcessResources) -> None:
    """The driver refuses a value of a wrong type, and PostgreSQL a text that is no number."""
    database, errors = resources.database, []
    for session_of in (database.read, database.transaction):
        with pytest.raises(DBAPIError) as caught:
            async with session_of() as session:
                await NOTE_BY_ID.first(session, note_id=SECRET)
        errors.append(caught.value)
    with pytest.raises(DBAPIError) as caught:
        await fetch(database.engine, "SELECT $1::text::integer", SECRET)
    errors.append(caught.value)
    with pytest.raises(DBAPIError) as caught:
        async with database.read() as session:
            await session.execute(AS_NUMBER, {"value": SECRET})
    errors.append(caught.value)
    logged = ["".join(traceback.format_exception(error)) for error in errors]
    assert all("invalid input" in one for one in logged)
    assert not any(SECRET in one for one in logged)


RUNNING = text(
    "SELECT count(*) FROM pg_stat_activity WHERE datname = current_database() "
    "AND state = 'active' AND query LIKE '%pg_sleep%' AND pid <> pg_backend_pid()"
)


class SlowRow(NamedTuple):
    id: int
    slept: None


SLOW = RowQuery(Columns(SlowRow, User, slept=func.pg_sleep(30)), select(User))


async def test_a_statement_that_is_too_slow_is_an_error_of_the_database(
    settings: Settings, make: NoteFactory
) -> None:
    await make.user()
    database = settings.database.model_copy(update={"statement_timeout_seconds": 0.05})
    async with running(settings.model_copy(update={"database": database})) as app:
        resources = app.state.resources
        with pytest.raises(DBAPIError) as caught:
            async with resources.database.read() as session:
                await SLOW.all(session)
        assert caught.value.orig is not None
        assert caught.value.orig.sqlstate == "57014"  # type: ignore[attr-defined]
        assert resources.database.engine.pool.checkedout() == 0


async def test_a_cancelled_statement_gives_back_its_place_in_the_pool(
    resources: ProcessResources, make: NoteFactory
) -> None:
    user = await make.user()
    by_id = RowQuery(AUTHOR_COLUMNS, select(User).where(User.id == bindparam("user_id")))
    for _ in range(resources.database.engine.pool.size() + 1):  # type: ignore[attr-defined]
        with pytest.raises(TimeoutError):
            async with asyncio.timeout(0.05), resources.database.read() as session:
                await SLOW.all(session)
    async with resources.database.read() as session:
        row = await by_id.first(session, user_id=user.id)
    assert row is not None
    assert row.id == user.id


async def test_a_cancelled_statement_ends_in_the_server_too(
    resources: ProcessResources, make: NoteFactory
) -> None:
    await make.user()

    async def read_slowly() -> None:
        async with resources.database.read() as session:
            await SLOW.all(session)

    async with resources.database.read() as session:
        task = asyncio.create_task(read_slowly())
        while not await session.scalar(RUNNING):
            await asyncio.sleep(0.01)
        task.cancel()
        with pytest.raises(asyncio.CancelledError):
            await task
        assert await session.scalar(RUNNING) == 0


TERMINATE = text(
    "SELECT pg_terminate_backend(pid) FROM pg_stat_activity "
    "WHERE pid <> pg_backend_pid() AND datname = current_database() AND state = 'idle'"
)
OTHERS = text(
    "SELECT count(*) FROM pg_stat_activity WHERE pid <> pg_backend_pid() "
    "AND datname = current_database() AND backend_type = 'client backend'"
)


async def test_a_connection_that_the_server_has_closed_is_replaced(
    resources: ProcessResources, make: NoteFactory
) -> None:
    user = await make.user()
    by_id = RowQuery(AUTHOR_COLUMNS, select(User).where(User.id == bindparam("user_id")))
    size = resources.database.engine.pool.size()  # type: ignore[attr-defined]

    async def read() -> int:
        async with resources.database.read() as session:
            row = await by_id.first(session, user_id=user.id)
        assert row is not None
        return row.id

    await asyncio.gather(*(read() for _ in range(size)))  # each on a connection of its own
    async with resources.database.read() as session:
        await session.execute(TERMINATE)
        while await session.scalar(OTHERS):
            await asyncio.sleep(0.01)
    await asyncio.sleep(0.05)  # the event loop notices that they were closed
    assert await asyncio.gather(*(read() for _ in range(size))) == [user.id] * size


async def test_a_connection_that_is_lost_during_a_statement_is_replaced_after_one_error(
    resources: ProcessResources,
) -> None:
    end_itself = "SELECT pg_terminate_backend(pg_backend_pid())"
    settings = resources.settings[DatabaseSettings].model_copy(update={"pool_size": 1})
    engine = open_engine(settings, "test")
    try:
        with pytest.raises(DBAPIError) as caught:
            await fetch(engine, end_itself)
        assert caught.value.connection_invalidated
        assert is_safe_to_retry(caught.value)
        assert [tuple(row) for row in await fetch(engine, "SELECT 1")] == [(1,)]
    finally:
        await engine.dispose()


async def test_a_type_that_a_migration_has_replaced_costs_each_connection_one_error(
    resources: ProcessResources,
) -> None:
    settings = resources.settings[DatabaseSettings].model_copy(update={"pool_size": 1})
    engine = open_engine(settings, "test")
    colours = "SELECT colour FROM test_colours WHERE colour = $1::test_colour"

    async def change(*statements: str) -> None:
        async with resources.database.engine.begin() as connection:
            for statement in statements:
                await connection.execute(text(statement))

    await change(
        "CREATE TYPE test_colour AS ENUM ('red')",
        "CREATE TABLE test_colours AS SELECT 'red'::test_colour AS colour",
    )
    try:
        assert len(await fetch(engine, colours, "red")) == 1
        await change(
            "ALTER TYPE test_colour RENAME TO test_old_colour",
            "CREATE TYPE test_colour AS ENUM ('red', 'blue')",
            "ALTER TABLE test_colours ALTER colour TYPE test_colour "
            "USING colour::text::test_colour",
            "DROP TYPE test_old_colour",
        )
        with pytest.raises(DBAPIError):
            await fetch(engine, colours, "red")
        assert len(await fetch(engine, colours, "red")) == 1
    finally:
        await change("DROP TABLE test_colours", "DROP TYPE test_colour")
        await engine.dispose()


def test_a_field_that_nothing_fills_is_refused_at_import() -> None:
    class Wrong(NamedTuple):
        id: int
        colour: str

    with pytest.raises(TypeError, match="no column for the field `colour` of Wrong"):
        Columns(Wrong, Shelf)
    with pytest.raises(TypeError, match="has no field"):
        Columns(ShelfRow, Shelf, colour=Shelf.label)


def test_a_statement_that_joins_an_inner_row_itself_is_refused_at_import() -> None:
    for statement in (
        select(Parcel).join(Parcel.shelf),
        select(Parcel).outerjoin(Shelf, Shelf.id == Parcel.shelf_id),
        select(Label).join(Label.parcel).join(Parcel.shelf),
    ):
        with pytest.raises(TypeError, match="The statement joins Shelf"):
            RowQuery(PLACED, statement)


async def test_a_condition_may_name_the_table_of_an_inner_row(
    resources: ProcessResources, parcels: None
) -> None:
    on_top = select(Parcel).where(Shelf.label == "top")
    of_label = select(Parcel).join(Label, Label.parcel_id == Parcel.id)
    async with resources.database.read() as session:
        placed = [PlacedRow(id=1, shelf=ShelfRow(1, "top"))]
        assert await RowQuery(PLACED, on_top).all(session) == placed
        assert await RowQuery(PLACED, of_label).all(session) == []


def test_a_row_shows_its_id_alone() -> None:
    """Errors of responses quote the row, and are logged."""
    shelf = SHELF.to_rows([[7, "a private text"]])[0]
    assert repr(shelf) == "ShelfRow(id=7)"
    assert repr(PLACED.to_rows([[3, *shelf]])[0]) == "PlacedRow(id=3)"


def test_columns_are_named_as_their_fields() -> None:
    assert list(PARCEL.by_name()) == list(ParcelRow._fields)
    assert list(PARCEL.by_name()["shelf"]) == ["id", "label"]
