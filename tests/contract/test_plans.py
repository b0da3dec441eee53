"""Every list, lookup and foreign key is served by an index: PostgreSQL says so itself.

The lists and lookups are in tests/features/<name>/contract.py. A list without a plan fails.
"""

import re
import sys
from collections.abc import AsyncIterator, Iterator, Mapping, Sequence
from dataclasses import replace
from typing import Any

import asyncpg
import pytest
from sqlalchemy import UniqueConstraint, event, text
from sqlalchemy.ext.asyncio import AsyncSession

from app.infra.database.base import Base
from app.infra.database.export import Export, ExportFormat
from app.infra.database.export_columns import values_of_batch
from app.infra.database.pagination import KeysetList, PageRequest
from app.infra.resources import ProcessResources
from tests.contract.declaration import ListPlan, Lookup
from tests.contract.features import CONTRACTS

LISTS = [one for contract in CONTRACTS for one in contract.lists]
NOT_BY_INDEX = {"Seq Scan", "Sort", "Incremental Sort"}
EXPORTS = [
    value
    for name, module in sorted(sys.modules.items())
    if re.fullmatch(r"app\.features\.\w+\.queries", name)
    for value in vars(module).values()
    if isinstance(value, Export) and not value.filters
]
LOOKUPS = [one for contract in CONTRACTS for one in contract.lookups]


@pytest.fixture
async def filled(
    resources: ProcessResources, database_url: str, clean: None
) -> AsyncIterator[AsyncSession]:
    """So many rows that PostgreSQL plans as it does in production."""
    connection = await asyncpg.connect(database_url)  # it has no statement timeout
    for contract in CONTRACTS:
        if contract.fill:
            await connection.execute(contract.fill)
    await connection.execute("ANALYZE")
    await connection.close()
    async with resources.database.read() as session:
        yield session


def nodes(plan: dict[str, Any]) -> Iterator[dict[str, Any]]:
    """Yield the nodes of a plan."""
    yield plan
    for child in plan.get("Plans", []):
        yield from nodes(child)


async def explain(session: AsyncSession, sql: str, values: Sequence[Any]) -> dict[str, Any]:
    """Run a statement, and return its plan with the number of blocks that it read."""
    connection = (await (await session.connection()).get_raw_connection()).driver_connection
    assert connection is not None
    found = await connection.fetchval(f"EXPLAIN (ANALYZE, BUFFERS, FORMAT JSON) {sql}", *values)
    plan: dict[str, Any] = found[0]["Plan"]
    return plan


@pytest.mark.parametrize("plan_of", LISTS, ids=lambda one: one.index)
async def test_a_page_reads_its_index_alone_at_any_depth(
    filled: AsyncSession, resources: ProcessResources, plan_of: ListPlan
) -> None:
    keyset, filters = plan_of.keyset, plan_of.filters
    first = await keyset.page(filled, PageRequest(20), **filters)
    cursors = [None, first.next]
    page = first
    for _ in range(3):  # some pages down, and back
        page = await keyset.page(filled, PageRequest(20, page.next), **filters)
    cursors += [page.next, page.prev]
    read = []
    for cursor in cursors:
        sql, values = await sent(filled, resources, keyset, PageRequest(20, cursor), filters)
        plan = await explain(filled, sql, values)
        kinds = {node["Node Type"] for node in nodes(plan)}
        assert not kinds & ({"Seq Scan"} if plan_of.sorts else NOT_BY_INDEX), kinds
        assert plan_of.index in {node.get("Index Name") for node in nodes(plan)}
        read.append(plan["Shared Hit Blocks"] + plan["Shared Read Blocks"])
    assert max(read) <= min(read) * 1.5, read


@pytest.mark.parametrize("plan_of", LISTS, ids=lambda one: one.index)
async def test_a_deep_page_reads_what_the_first_page_reads(
    filled: AsyncSession, resources: ProcessResources, plan_of: ListPlan
) -> None:
    keyset, filters = plan_of.keyset, plan_of.filters
    page = await keyset.page(filled, PageRequest(plan_of.deep_row), **filters)
    assert page.next is not None
    read = []
    for cursor in (None, page.next):
        sql, values = await sent(filled, resources, keyset, PageRequest(20, cursor), filters)
        plan = await explain(filled, sql, values)
        read.append(plan["Shared Hit Blocks"] + plan["Shared Read Blocks"])
    assert read[1] <= read[0] * 1.2, read


async def sent(
    session: AsyncSession,
    resources: ProcessResources,
    keyset: KeysetList[Any],
    query: PageRequest,
    filters: Mapping[str, object],
) -> tuple[str, Sequence[Any]]:
    """Return the SQL of a page, and the values of its parameters.

    `filled` has a connection, so SQLAlchemy sends the statement and tells what it sends.
    """
    statements: list[tuple[str, Sequence[Any]]] = []

    def record(_connection: Any, _cursor: Any, sql: str, values: Any, *_: Any) -> None:
        statements.append((sql, values))

    engine = resources.database.engine.sync_engine
    event.listen(engine, "before_cursor_execute", record)
    try:
        await session.connection()
        await keyset.page(session, query, **filters)
    finally:
        event.remove(engine, "before_cursor_execute", record)
    return statements[-1]


@pytest.mark.parametrize("export", EXPORTS, ids=lambda one: one.name)
async def test_a_batch_of_an_export_reads_its_rows_in_the_order_of_an_index(
    filled: AsyncSession, resources: ProcessResources, export: Export
) -> None:
    """An export with filters needs a plan of its own feature."""
    table = f'"{export.table}"'
    moment = "round(extract(epoch FROM created_at - timestamptz '2000-01-01Z') * 1000000)::bigint"
    query = f"SELECT {moment} AS moment, id FROM {table} ORDER BY created_at, id OFFSET 9000"
    middle = (await filled.execute(text(query))).first()
    assert middle is not None, "`fill` makes too few rows"
    first = export.after(None, {})
    sql = export.sql(ExportFormat.CSV, first.list_id, {})
    read = []
    for place in (first, replace(first, value=middle.moment, row_id=middle.id)):
        plan = await explain(filled, sql % values_of_batch(place, 1_000), ())
        found = list(nodes(plan))
        assert not {node["Node Type"] for node in found} & {"Sort", "Incremental Sort"}
        assert export.table in {
            node["Relation Name"] for node in found if node["Node Type"] == "Index Scan"
        }
        read.append(plan["Shared Hit Blocks"] + plan["Shared Read Blocks"])
    assert read[1] <= read[0] * 1.5, read


def test_every_list_has_a_plan() -> None:
    known = [one.keyset for one in LISTS]
    for name, module in sorted(sys.modules.items()):
        if not re.fullmatch(r"app\.features\.\w+\.queries", name):
            continue
        file = f"tests/features/{name.split('.')[2]}/contract.py"
        for variable, value in vars(module).items():
            if isinstance(value, KeysetList):
                assert value in known, (
                    f"{variable} in {name} has no plan. Add to `lists` in {file}: "
                    f'ListPlan({variable}, {{}}, "ix_…", deep_row=1_000)'
                )


def test_every_foreign_key_leads_an_index() -> None:
    for table in Base.metadata.tables.values():
        unique = [one for one in table.constraints if isinstance(one, UniqueConstraint)]
        groups = [*(one.columns for one in table.indexes), *(one.columns for one in unique)]
        leading = {next(iter(columns)).name for columns in groups if columns}
        for key in table.foreign_keys:
            assert key.parent.name in leading, f"{table.name}.{key.parent.name} has no index"


@pytest.mark.parametrize("lookup", LOOKUPS, ids=lambda one: one.index)
async def test_a_lookup_uses_its_index(filled: AsyncSession, lookup: Lookup) -> None:
    await filled.execute(text("SET enable_seqscan = off"))
    plan = await explain(filled, lookup.sql, lookup.values)
    await filled.execute(text("RESET enable_seqscan"))
    assert lookup.index in {node.get("Index Name") for node in nodes(plan)}
