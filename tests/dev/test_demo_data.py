"""The demo data is complete, consistent and the same each time."""

from collections.abc import AsyncIterator

import asyncpg
import httpx2
import pytest

from dev.demo_data import DEMO_EMAIL, DEMO_PASSWORD, DatabaseNotEmpty, load

POSTS = 200


def quiet(_table: str, _done: int, _total: int) -> None:
    """Show no progress."""


@pytest.fixture
async def connection(database_url: str, clean: None) -> AsyncIterator[asyncpg.Connection]:
    connection = await asyncpg.connect(database_url)
    yield connection
    await connection.close()


async def test_row_counts_and_comment_counts_are_right(
    database_url: str, connection: asyncpg.Connection
) -> None:
    await load(database_url, POSTS, progress=quiet)
    for table, number in {"users": POSTS // 10, "posts": POSTS, "comments": 3 * POSTS}.items():
        assert await connection.fetchval(f"SELECT count(*) FROM {table}") == number
        last = await connection.fetchval(f"SELECT nextval(pg_get_serial_sequence('{table}', 'id'))")
        assert last == number + 1
    wrong = await connection.fetchval(
        "SELECT count(*) FROM posts p WHERE comment_count <> "
        "(SELECT count(*) FROM comments WHERE post_id = p.id)"
    )
    assert wrong == 0


async def test_each_load_stores_the_same_posts(
    database_url: str, connection: asyncpg.Connection
) -> None:
    digests = []
    for _ in range(2):
        await load(database_url, POSTS, progress=quiet)
        digests.append(
            await connection.fetchval(
                "SELECT md5(string_agg(p::text, '' ORDER BY id)) FROM posts p"
            )
        )
        await connection.execute("TRUNCATE users, posts, comments CASCADE")
    assert digests[0] == digests[1]


async def test_a_database_with_users_is_not_changed(
    database_url: str, connection: asyncpg.Connection
) -> None:
    await load(database_url, 10, progress=quiet)
    with pytest.raises(DatabaseNotEmpty):
        await load(database_url, 10, progress=quiet)
    assert await connection.fetchval("SELECT count(*) FROM posts") == 10


async def test_the_demo_user_can_log_in(database_url: str, client: httpx2.AsyncClient) -> None:
    await load(database_url, 10, progress=quiet)
    form = {"username": DEMO_EMAIL, "password": DEMO_PASSWORD}
    response = await client.post("/v1/auth/token", data=form)
    assert response.status_code == 200
