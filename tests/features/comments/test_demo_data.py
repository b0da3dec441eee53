"""The demo data of posts and comments fits together."""

import asyncpg
import pytest

from dev.demo_data import load


@pytest.mark.slow
async def test_demo_posts_have_the_right_numbers_of_comments(
    database_url: str, clean: None
) -> None:
    await load(database_url, 200, progress=lambda *_: None)
    connection = await asyncpg.connect(database_url)
    counts = await connection.fetch(
        "SELECT p.comment_count, count(c.id) FROM posts p LEFT JOIN comments c ON c.post_id = p.id "
        "GROUP BY p.id"
    )
    await connection.close()
    assert len(counts) == 200
    assert all(stored == counted for stored, counted in counts)
    assert sum(stored for stored, _ in counts) == 600
