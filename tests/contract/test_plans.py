"""Every list, look-up and foreign key is served by an index, as PostgreSQL itself plans it."""

from collections.abc import AsyncIterator, Iterator
from typing import Any

import pytest
from sqlalchemy import text
from sqlalchemy.ext.asyncio import AsyncSession

from app.features.comments.queries import COMMENTS_OF_POST
from app.features.posts.queries import ALL_POSTS, POSTS_BY_AUTHOR
from app.infra.database.base import Base
from app.infra.database.pagination import Cursor, KeysetList, PageRequest
from app.infra.dependencies import ProcessResources
from tests.application import recorded_statements

ROWS = text("""
    INSERT INTO users (email, name, password_hash)
        SELECT i || '@example.com', i, 'x' FROM generate_series(1, 2000) i;
""")
POSTS = text("""
    INSERT INTO posts (author_id, title, body, created_at)
        SELECT CASE WHEN i % 4 = 0 THEN 5 ELSE 1 + i % 2000 END, i, i,
            timestamptz '2026-01-01' + i * interval '1 minute'
        FROM generate_series(1, 20000) i;
""")
COMMENTS = text("""
    INSERT INTO comments (post_id, author_id, body, created_at)
        SELECT CASE WHEN i % 4 = 0 THEN 5 ELSE 1 + i % 200 END, 1 + i % 2000, i,
            timestamptz '2026-01-01' + i * interval '1 minute'
        FROM generate_series(1, 20000) i;
""")


@pytest.fixture
async def filled(resources: ProcessResources, clean: None) -> AsyncIterator[AsyncSession]:
    """Enough rows for a plan to matter; number 5 of each kind has a quarter of the children."""
    async with resources.database.transaction() as session:
        for statement in (ROWS, POSTS, COMMENTS):
            await session.execute(statement)
    async with resources.database.read() as session:
        await session.execute(text("ANALYZE"))
        yield session


def nodes(plan: dict[str, Any]) -> Iterator[dict[str, Any]]:
    """Walk through the plan's nodes."""
    yield plan
    for child in plan.get("Plans", []):
        yield from nodes(child)


async def explain(session: AsyncSession, sql: str, values: list[Any]) -> dict[str, Any]:
    """Run a statement as it was sent, and return its plan with what it read."""
    connection = (await (await session.connection()).get_raw_connection()).driver_connection
    assert connection is not None
    found = await connection.fetchval(f"EXPLAIN (ANALYZE, BUFFERS, FORMAT JSON) {sql}", *values)
    plan: dict[str, Any] = found[0]["Plan"]
    return plan


LISTS = [
    pytest.param(ALL_POSTS, {}, "ix_posts_created_at_id", id="posts"),
    pytest.param(
        POSTS_BY_AUTHOR, {"author_id": 5}, "ix_posts_author_id_created_at_id", id="of an author"
    ),
    pytest.param(
        COMMENTS_OF_POST, {"post_id": 5}, "ix_comments_post_id_created_at_id", id="comments"
    ),
]


@pytest.mark.parametrize(("keyset", "filters", "index"), LISTS)
async def test_a_page_reads_its_index_alone_at_any_depth(
    filled: AsyncSession,
    resources: ProcessResources,
    keyset: KeysetList[Any],
    filters: dict[str, int],
    index: str,
) -> None:
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
        assert not kinds & {"Seq Scan", "Sort", "Incremental Sort"}, kinds
        assert index in {node.get("Index Name") for node in nodes(plan)}
        read.append(plan["Shared Hit Blocks"] + plan["Shared Read Blocks"])
    assert max(read) <= min(read) * 1.5, read


async def test_a_page_at_row_19000_reads_what_the_first_page_reads(
    filled: AsyncSession, resources: ProcessResources
) -> None:
    first = await ALL_POSTS.page(filled, PageRequest(20))
    assert first.next is not None
    row = await filled.get_one(type(first.items[0]), 1000)
    deep = Cursor(ALL_POSTS._id({}), row.created_at, row.id).encode()
    read = []
    for cursor in (None, deep):
        sql, values = await sent(filled, resources, ALL_POSTS, PageRequest(20, cursor), {})
        plan = await explain(filled, sql, values)
        read.append(plan["Shared Hit Blocks"] + plan["Shared Read Blocks"])
    assert read[1] <= read[0] * 1.2, read


async def sent(
    session: AsyncSession,
    resources: ProcessResources,
    keyset: KeysetList[Any],
    query: PageRequest,
    filters: dict[str, int],
) -> tuple[str, list[Any]]:
    """Return the SQL of a page, and its values."""
    with recorded_statements(resources) as statements:
        await keyset.page(session, query, **filters)
    cursor = query.cursor and Cursor.decode(query.cursor, keyset._id(filters))
    place = [cursor.created_at, cursor.row_id] if cursor else []
    return statements[-1], [*filters.values(), *place]


def test_every_foreign_key_leads_an_index() -> None:
    for table in Base.metadata.tables.values():
        leading = {next(iter(index.columns)).name for index in table.indexes if index.columns}
        for key in table.foreign_keys:
            assert key.parent.name in leading, f"{table.name}.{key.parent.name} has no index"


async def test_an_address_is_found_by_its_index(filled: AsyncSession) -> None:
    sql = "SELECT id FROM users WHERE lower(email) = lower($1) AND deleted_at IS NULL"
    await filled.execute(text("SET enable_seqscan = off"))
    plan = await explain(filled, sql, ["5@example.com"])
    await filled.execute(text("RESET enable_seqscan"))
    assert "uq_users_email" in {node.get("Index Name") for node in nodes(plan)}
