"""Lists show each row once and in order, and only cursors that the service issued are accepted."""

import enum
from base64 import urlsafe_b64encode
from collections.abc import AsyncIterator
from dataclasses import replace
from datetime import UTC, date, datetime, timedelta
from decimal import Decimal
from typing import Any, NamedTuple

import httpx2
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from sqlalchemy import (
    CHAR,
    Date,
    DateTime,
    Enum,
    Float,
    Integer,
    MetaData,
    Numeric,
    SmallInteger,
    String,
    Text,
    bindparam,
    delete,
    insert,
    select,
)
from sqlalchemy.orm import Mapped, mapped_column
from sqlalchemy.types import TypeEngine

from app.errors import InvalidRequest
from app.infra.database.base import Base
from app.infra.database.cursors import (
    HEAD,
    TAIL,
    VERSION,
    Cursor,
    CursorFormat,
    cursor_format,
    list_identity,
)
from app.infra.database.pagination import KeysetList, PageRequest
from app.infra.database.rows import Columns
from app.infra.resources import ProcessResources
from app.infra.validation.fields import Choice
from tests.sample.notes import ALL_NOTES, Note

LIST = b"list"
# The driver stores these two as -infinity and infinity.
FIRST, LAST = datetime.min.replace(tzinfo=UTC), datetime.max.replace(tzinfo=UTC)
FIXTURES = [HealthCheck.function_scoped_fixture]  # they keep nothing of an example


class Status(Choice):
    OPEN = "open"
    DONE = "done"


BY_NAME = Enum(Status, native_enum=False)


class Separate(Base):
    """The tables of this module are not among those of the service."""

    __abstract__ = True
    metadata = MetaData()


class Thing(Separate):
    __tablename__ = "test_things"

    title: Mapped[str] = mapped_column(String(40))
    due: Mapped[datetime]
    day: Mapped[date]
    count: Mapped[int]
    small: Mapped[int] = mapped_column(SmallInteger)
    price: Mapped[Decimal] = mapped_column(Numeric(12, 2))
    flag: Mapped[bool]
    status: Mapped[Status]
    body: Mapped[str] = mapped_column(Text)
    nickname: Mapped[str | None] = mapped_column(String(40))


class ThingRow(NamedTuple):
    id: int
    created_at: datetime
    title: str
    due: datetime
    day: date
    count: int  # type: ignore[assignment]  # a method of tuple
    small: int
    price: Decimal
    flag: bool
    status: Status
    nickname: str | None


THING = Columns(ThingRow, Thing)
THINGS = select(Thing)
ORDERS = [
    *(Thing.created_at, Thing.title, Thing.day, Thing.count, Thing.small, Thing.price),
    *(Thing.status, Thing.id, Thing.due),
]
FILTERS: dict[str, Any] = {
    "title": "b",
    "due": datetime(2026, 1, 1, tzinfo=UTC),
    "day": date(2026, 2, 28),
    "count": 1,
    "price": Decimal("1.50"),
    "flag": True,
    "status": Status.OPEN,
}
# Few values, so that there are ties and each filter finds some rows.
ROWS = st.lists(
    st.fixed_dictionaries(
        {
            "created_at": st.sampled_from(
                [FIRST, *(datetime(2026, 1, 1, h, tzinfo=UTC) for h in range(3)), LAST]
            ),
            "due": st.sampled_from([FIRST, datetime(2026, 1, 1, tzinfo=UTC), LAST]),
            "title": st.sampled_from(["", *"aAbBäzé\U0001f4a9", "ab", "a b"]),
            "day": st.sampled_from([date.min, date(2026, 2, 28), date(2026, 3, 1), date.max]),
            "count": st.sampled_from([-(2**31), -1, 0, 1, 2**31 - 1]),
            "small": st.sampled_from([-(2**15), 0, 2**15 - 1]),
            "price": st.sampled_from([Decimal(n) for n in ("-0.01", "0", "1.50", "9e9", "NaN")]),
            "flag": st.booleans(),
            "status": st.sampled_from(Status),
            "body": st.just(""),
        }
    ),
    max_size=12,
)


@pytest.fixture(scope="module")
async def table(resources: ProcessResources) -> AsyncIterator[None]:
    async with resources.database.engine.begin() as connection:
        await connection.run_sync(Separate.metadata.create_all)
    yield
    async with resources.database.engine.begin() as connection:
        await connection.run_sync(Separate.metadata.drop_all)


async def store(resources: ProcessResources, rows: list[dict[str, Any]]) -> None:
    """Replace the rows of the table."""
    async with resources.database.transaction() as session:
        await session.execute(delete(Thing))
        if rows:
            await session.execute(insert(Thing), rows)


@pytest.mark.parametrize("descending", [False, True])
@pytest.mark.parametrize("order_by", ORDERS, ids=lambda column: column.key)
@settings(max_examples=20, deadline=None, suppress_health_check=FIXTURES)
@given(
    rows=ROWS,
    limit=st.integers(1, 5),
    filters=st.sets(st.sampled_from(sorted(FILTERS)), max_size=2),
)
async def test_pages_show_each_row_once_and_in_order_in_both_directions(
    resources: ProcessResources,
    table: None,
    order_by: Any,
    descending: bool,
    rows: list[dict[str, Any]],
    limit: int,
    filters: set[str],
) -> None:
    await store(resources, rows)
    chosen = {name: FILTERS[name] for name in filters}
    found = THINGS.where(*(getattr(Thing, name) == bindparam(name) for name in chosen))
    things = KeysetList("things", THING, found, order_by=order_by, descending=descending)
    order = [order_by.desc(), Thing.id.desc()] if descending else [order_by, Thing.id]
    async with resources.database.read() as session:
        expected = [one.id for one in await session.scalars(found.order_by(*order), chosen)]
        pages = [await things.page(session, PageRequest(limit), **chosen)]
        while (cursor := pages[-1].next) and len(pages) <= len(rows):
            pages.append(await things.page(session, PageRequest(limit, cursor), **chosen))
        back = [pages[-1]]
        while (cursor := back[-1].prev) and len(back) <= len(rows):
            back.append(await things.page(session, PageRequest(limit, cursor), **chosen))
    assert [row.id for page in pages for row in page.items] == expected
    assert [row.id for page in reversed(back) for row in page.items] == expected


@pytest.mark.parametrize("order_by", ORDERS, ids=lambda column: column.key)
async def test_only_a_page_of_a_list_by_age_is_ever_settled(
    resources: ProcessResources, table: None, order_by: Any
) -> None:
    long_ago = datetime(2020, 1, 1, tzinfo=UTC)
    await store(resources, [row(created_at=long_ago, due=long_ago) for _ in range(3)])
    things = KeysetList("things", THING, THINGS, order_by=order_by)
    async with resources.database.read() as session:
        first = await things.page(session, PageRequest(1, None, timedelta(0)))
        second = await things.page(session, PageRequest(1, first.next, timedelta(0)))
    assert [first.is_settled, second.is_settled] == [order_by is Thing.created_at] * 2


async def test_page_before_a_row_at_infinity_is_never_settled(
    resources: ProcessResources, table: None
) -> None:
    """Each new row belongs before it."""
    await store(resources, [row(created_at=moment) for moment in (FIRST, FIRST, LAST, LAST)])
    things = KeysetList("things", THING, THINGS)
    async with resources.database.read() as session:
        early = await things.page(session, PageRequest(1, None, timedelta(0)))
        late = await things.page(session, PageRequest(3, None, timedelta(0)))
    assert [early.is_settled, late.is_settled] == [True, False]


async def test_page_after_a_deleted_row_is_read(resources: ProcessResources, table: None) -> None:
    await store(resources, [row(title=title) for title in "abcd"])
    things = KeysetList("things", THING, THINGS, order_by=Thing.title)
    async with resources.database.read() as session:
        first = await things.page(session, PageRequest(2))
    async with resources.database.transaction() as session:
        await session.execute(delete(Thing).where(Thing.title == "b"))
    async with resources.database.read() as session:
        second = await things.page(session, PageRequest(2, first.next))
    assert [thing.title for thing in second.items] == ["c", "d"]


@pytest.mark.parametrize("backward", [False, True])
@pytest.mark.parametrize("descending", [False, True])
async def test_empty_page_leads_back_to_the_row_beside_it(
    resources: ProcessResources, table: None, descending: bool, backward: bool
) -> None:
    await store(resources, [row(count=1) for _ in range(3)])
    things = KeysetList("things", THING, THINGS, order_by=Thing.count, descending=descending)
    async with resources.database.read() as session:
        all_of_them = await things.page(session, PageRequest(3))
        ids = [thing.id for thing in all_of_them.items]
        middle = await things.page(
            session, PageRequest(1, (await things.page(session, PageRequest(1))).next)
        )
    kept, removed = (ids[1:], ids[0]) if backward else (ids[:2], ids[2])
    async with resources.database.transaction() as session:
        await session.execute(delete(Thing).where(Thing.id == removed))
    async with resources.database.read() as session:
        empty = await things.page(session, PageRequest(1, middle.prev if backward else middle.next))
        assert not empty.items
        back = await things.page(session, PageRequest(2, empty.next if backward else empty.prev))
    assert [thing.id for thing in back.items] == kept


def row(**values: Any) -> dict[str, Any]:
    usual: dict[str, Any] = {
        "title": "",
        "due": FIRST,
        "day": date(2026, 1, 1),
        "count": 0,
        "small": 0,
        "price": 0,
        "flag": True,
    }
    return {**usual, "status": Status.OPEN, "body": "", **values}


async def test_longest_text_has_a_cursor(resources: ProcessResources, table: None) -> None:
    await store(resources, [row(title="\U0001f4a9" * 40) for _ in range(3)])
    things = KeysetList("things", THING, THINGS, order_by=Thing.title)
    async with resources.database.read() as session:
        first = await things.page(session, PageRequest(2))
        second = await things.page(session, PageRequest(2, first.next))
    assert len(second.items) == 1
    kind = cursor_format(String(255))
    longest = Cursor(LIST, "\U0001f4a9" * 255, 1)
    assert kind.decode(kind.encode(longest), LIST) == longest


async def test_filter_may_have_many_values(resources: ProcessResources, table: None) -> None:
    await store(resources, [row(count=count) for count in range(4)])
    found = THINGS.where(Thing.count.in_(bindparam("counts", expanding=True)))
    things = KeysetList("things", THING, found, order_by=Thing.count)
    async with resources.database.read() as session:
        page = await things.page(session, PageRequest(1), counts=[1, 3])
        page = await things.page(session, PageRequest(1, page.next), counts=[1, 3])
    assert [thing.count for thing in page.items] == [3]


@pytest.mark.parametrize("value", [None, 1.5, b"x", object()])
async def test_filter_without_a_stable_spelling_is_refused(
    resources: ProcessResources, value: object
) -> None:
    things = KeysetList("things", THING, THINGS.where(Thing.title == bindparam("title")))
    async with resources.database.read() as session:
        with pytest.raises(TypeError, match="The list things: a filter cannot be "):
            await things.page(session, PageRequest(1), title=value)


@pytest.mark.parametrize("filters", [{}, {"title": "a", "count": 1}, {"count": 1}])
async def test_missing_and_unknown_filters_are_refused(
    resources: ProcessResources, filters: dict[str, Any]
) -> None:
    things = KeysetList("things", THING, THINGS.where(Thing.title == bindparam("title")))
    async with resources.database.read() as session:
        with pytest.raises(TypeError, match="has the filters \\['title'\\]"):
            await things.page(session, PageRequest(1), **filters)


@pytest.mark.parametrize("name", ["keyset_value", "keyset_id", "keyset_limit"])
def test_parameter_of_the_page_cannot_be_a_filter(name: str) -> None:
    with pytest.raises(TypeError, match="Rename them"):
        KeysetList("things", THING, THINGS.where(Thing.count == bindparam(name)))


@pytest.mark.parametrize("name", ["at", "after_id", "limit", "query", "session"])
async def test_other_names_can_be_filters(
    resources: ProcessResources, table: None, name: str
) -> None:
    await store(resources, [row(count=count) for count in (1, 1, 2)])
    things = KeysetList("things", THING, THINGS.where(Thing.count == bindparam(name)))
    async with resources.database.read() as session:
        page = await things.page(session, PageRequest(1), **{name: 1})
        page = await things.page(session, PageRequest(1, page.next), **{name: 1})
    assert len(page.items) == 1
    assert page.next is None


def test_column_that_can_be_null_is_refused() -> None:
    with pytest.raises(TypeError, match=r"test_things\.nickname, because it can be NULL"):
        KeysetList("things", THING, THINGS, order_by=Thing.nickname)


@pytest.mark.parametrize("column", [Thing.body, Thing.flag], ids=["unbounded text", "bool"])
def test_column_without_a_cursor_is_refused(column: Any) -> None:
    with pytest.raises(TypeError, match="cannot be ordered by test_things"):
        KeysetList("things", THING, THINGS, order_by=column)


def test_column_of_another_table_is_refused() -> None:
    with pytest.raises(TypeError, match="only be ordered by a column of Thing"):
        KeysetList("things", THING, THINGS, order_by=Note.created_at)


def test_list_that_is_not_ordered_by_time_cannot_have_the_newest_rows_first() -> None:
    """It would silently be ascending."""
    with pytest.raises(TypeError, match="The list things: with `order_by`, say `descending`"):
        KeysetList("things", THING, THINGS, order_by=Thing.title, newest_first=True)


@pytest.mark.parametrize(
    "kind",
    [Float(), Numeric(), CHAR(3), String(256), String()],
    ids=repr,
)
def test_type_without_a_cursor_is_refused(kind: TypeEngine[Any]) -> None:
    with pytest.raises(TypeError, match="a list can be ordered by Integer, "):
        cursor_format(kind)


@pytest.mark.parametrize("kind", [Enum(Status), Enum(Status, native_enum=False)], ids=repr)
def test_enum_that_is_not_stored_as_the_text_of_its_values_is_refused(kind: Enum) -> None:
    with pytest.raises(TypeError, match="an enum has to be stored as text"):
        cursor_format(kind)


TEXTS = st.text(st.characters(exclude_characters="\0", codec="utf-8"), max_size=255)
VALUES: list[tuple[TypeEngine[Any], st.SearchStrategy[Any]]] = [
    (
        DateTime(timezone=True),
        st.datetimes(min_value=datetime(1, 1, 2), max_value=datetime(9999, 12, 30)).map(
            lambda moment: moment.replace(tzinfo=UTC)
        ),
    ),
    (Date(), st.dates()),
    (Integer(), st.integers(-(2**63), 2**63 - 1)),
    (Numeric(30, 10), st.decimals(-(10**19), 10**19, allow_nan=False, places=10)),
    (String(255), TEXTS),
]
CURSORS = st.one_of(
    *(
        st.tuples(
            st.just(cursor_format(kind)),
            st.builds(
                Cursor,
                list_id=st.just(LIST),
                value=values,
                row_id=st.integers(0, 2**63 - 1),
                backward=st.booleans(),
            ),
        )
        for kind, values in VALUES
    )
)


@given(CURSORS)
def test_cursor_can_be_decoded(one: tuple[CursorFormat, Cursor]) -> None:
    kind, cursor = one
    assert kind.decode(kind.encode(cursor), LIST) == cursor


@given(CURSORS, st.data())
def test_altered_cursor_is_refused_or_is_another_cursor(
    one: tuple[CursorFormat, Cursor], data: st.DataObject
) -> None:
    kind, cursor = one
    text = kind.encode(cursor)
    place = data.draw(st.integers(0, len(text) - 1))
    forged = text[:place] + data.draw(st.characters()) + text[place + 1 :]
    try:
        assert kind.encode(kind.decode(forged, LIST)) == forged
    except InvalidRequest as error:
        assert error.code == "invalid_cursor"


@given(st.sampled_from(VALUES), st.text())
def test_arbitrary_text_is_refused(one: tuple[TypeEngine[Any], Any], text: str) -> None:
    with pytest.raises(InvalidRequest):
        cursor_format(one[0]).decode(text, LIST)


@given(CURSORS)
def test_cursor_of_another_list_is_refused(one: tuple[CursorFormat, Cursor]) -> None:
    kind, cursor = one
    with pytest.raises(InvalidRequest):
        kind.decode(kind.encode(cursor), b"ours")


def test_cursor_that_is_longer_than_any_of_the_service_is_refused() -> None:
    kind = cursor_format(String(255))
    with pytest.raises(InvalidRequest):
        kind.decode(kind.encode(Cursor(LIST, "a" * 2_000, 1)), LIST)


@given(CURSORS)
def test_cursor_with_a_negative_id_is_refused(one: tuple[CursorFormat, Cursor]) -> None:
    kind, cursor = one
    with pytest.raises(InvalidRequest):
        kind.decode(kind.encode(replace(cursor, row_id=-1 - cursor.row_id)), LIST)


@pytest.mark.parametrize("number", ["1.0", "-0", "01", "1e5", "+1", " 1", "1_0", "Inf", "sNaN"])
def test_other_spelling_of_a_number_is_refused(number: str) -> None:
    with pytest.raises(InvalidRequest):
        cursor_format(Numeric(9, 2)).decode(forged(LIST, number.encode(), 1), LIST)


def forged(list_id: bytes, value: bytes, row_id: int, *, backward: bool = False) -> str:
    packed = HEAD.pack(VERSION, backward, list_id) + value + TAIL.pack(row_id)
    return urlsafe_b64encode(packed).rstrip(b"=").decode()


@pytest.mark.parametrize("order_by", ORDERS, ids=lambda column: column.key)
@settings(max_examples=40, deadline=None, suppress_health_check=FIXTURES)
@given(
    value=st.one_of(
        st.binary(max_size=12),
        st.binary(min_size=4, max_size=4),
        st.binary(min_size=8, max_size=8),
        TEXTS.map(str.encode),
        st.from_regex(r"-?[0-9]{1,500}(\.[0-9]{1,500})?", fullmatch=True).map(str.encode),
        st.sampled_from([(2**63 - 1).to_bytes(8), b"NaN", date.max.toordinal().to_bytes(4)]),
    ),
    row_id=st.integers(-(2**63), 2**63 - 1),
    backward=st.booleans(),
)
async def test_forged_cursor_is_a_place_in_the_list_or_is_refused(
    resources: ProcessResources,
    table: None,
    order_by: Any,
    value: bytes,
    row_id: int,
    backward: bool,
) -> None:
    things = KeysetList("things", THING, THINGS, order_by=order_by)
    cursor = forged(things._id({}), value, row_id, backward=backward)
    async with resources.database.read() as session:
        try:
            page = await things.page(session, PageRequest(2, cursor))
            for again in filter(None, (page.next, page.prev)):
                await things.page(session, PageRequest(2, again))
        except InvalidRequest as error:
            assert error.code == "invalid_cursor"


@pytest.mark.parametrize("changed", [{"order_by": Thing.count}, {"descending": True}])
async def test_cursor_of_another_order_is_refused(
    resources: ProcessResources, table: None, changed: dict[str, Any]
) -> None:
    await store(resources, [row() for _ in range(2)])
    order: dict[str, Any] = {"order_by": Thing.id}
    things = KeysetList("things", THING, THINGS, **order)
    others = KeysetList("things", THING, THINGS, **{**order, **changed})
    async with resources.database.read() as session:
        page = await things.page(session, PageRequest(1))
        with pytest.raises(InvalidRequest):
            await others.page(session, PageRequest(1, page.next))


async def test_list_by_age_accepts_the_cursors_of_older_releases(
    resources: ProcessResources, table: None
) -> None:
    """At first, every list was ordered by age, and cursors did not name the order."""
    await store(resources, [row() for _ in range(2)])
    things = KeysetList("things", THING, THINGS)
    by_age, list_id = cursor_format(DateTime(timezone=True)), list_identity("things", {})
    async with resources.database.read() as session:
        [first] = (await things.page(session, PageRequest(1))).items
        older = by_age.encode(Cursor(list_id, first.created_at, first.id))
        [second] = (await things.page(session, PageRequest(1, older))).items
    assert second.id != first.id


class Colour(enum.Enum):
    RED = "red"


def test_cursor_of_an_enum_contains_the_text_that_is_stored() -> None:
    stored = Enum(
        Colour, native_enum=False, values_callable=lambda kind: [one.value for one in kind]
    )
    kind = cursor_format(stored)
    assert kind.decode(kind.encode(Cursor(LIST, Colour.RED, 1)), LIST).value == "red"


@pytest.mark.parametrize("row_id", [0, 1, 2**63 - 1])
@pytest.mark.parametrize("backward", [False, True])
@pytest.mark.parametrize("url", ["/test/notes", "/test/notes?author_id=1"])
async def test_empty_page_at_the_smallest_and_largest_id_is_answered(
    client: httpx2.AsyncClient, url: str, row_id: int, backward: bool
) -> None:
    filters = {"author_id": 1} if "author_id" in url else {}
    list_id = ALL_NOTES._id(filters)
    place = Cursor(list_id, datetime(2026, 1, 1, tzinfo=UTC), row_id, backward)
    cursor = ALL_NOTES._format.encode(place)
    response = await client.get(url, params={**filters, "cursor": cursor})
    assert response.status_code == 200
    page = response.json()
    again = page["next"] or page["prev"]
    answer = await client.get(url, params={**filters, "cursor": again})
    assert answer.status_code == 200
