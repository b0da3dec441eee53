"""Deep pages: the time of the SQL statement by OFFSET, and by cursor."""

import asyncio
import json
from collections.abc import Sequence
from statistics import median
from typing import Any

import asyncpg

from benchmarks.charts import Chart, Lines
from benchmarks.section import Data, number, table
from benchmarks.world import World

ORDER = 6
TITLE = "Deep pages"

SHARES = (0, 0.01, 0.1, 0.9)  # of the posts
ROWS = """
    FROM posts JOIN users ON users.id = posts.author_id
    {where} ORDER BY posts.created_at DESC, posts.id DESC LIMIT 20
"""
PAGE = "SELECT posts.*, users.name, users.avatar_url " + ROWS
OR_FORM = """
    WHERE posts.created_at < $1 OR (posts.created_at = $1 AND posts.id < $2)
"""
WAYS = {
    "offset": "OFFSET",
    "keyset": "cursor, as a row value",
    "or-form": "cursor, written with OR",
    "no-index": "cursor, without the index",
}


def measure(world: World) -> Data:
    rows = [int(world.effort.posts * part) for part in SHARES]
    world.status.show("Deep pages")
    found = asyncio.run(_measure(world.servers.database_url, rows, world.effort.is_quick))
    world.status.finish("Deep pages: done")
    return {"rows": rows, "ways": found}


async def _measure(url: str, rows: Sequence[int], is_quick: bool) -> Data:
    connection = await asyncpg.connect(url)
    times: Data = {way: [] for way in WAYS}
    try:
        for row in rows:
            place = await connection.fetchrow(
                "SELECT created_at, id FROM posts ORDER BY created_at DESC, id DESC "
                "OFFSET $1 LIMIT 1",
                max(row - 1, 0),
            )
            assert place is not None
            for way in WAYS:
                statement, values = _statement(way, row, tuple(place))
                repeats = 3 if is_quick else 15
                taken = await _milliseconds(connection, way, statement, values, repeats)
                times[way].append(float(f"{taken:.3g}"))
    finally:
        await connection.close()
    return times


def _statement(way: str, row: int, place: tuple[Any, ...]) -> tuple[str, tuple[Any, ...]]:
    """Return the statement of a page that begins after `row` rows, and its parameters."""
    if way == "offset":
        return PAGE.format(where="") + f" OFFSET {row}", ()
    if row == 0:
        return PAGE.format(where=""), ()
    if way == "or-form":
        return PAGE.format(where=OR_FORM), place
    return PAGE.format(where="WHERE (posts.created_at, posts.id) < ($1, $2)"), place


async def _milliseconds(
    connection: asyncpg.Connection,
    way: str,
    statement: str,
    values: tuple[Any, ...],
    repeats: int,
) -> float:
    """Return the median of the times that PostgreSQL itself measures."""
    taken = []
    transaction = connection.transaction()
    await transaction.start()
    try:
        if way == "no-index":  # the index is gone until the rollback
            names = await connection.fetch(
                "SELECT indexname FROM pg_indexes WHERE tablename = 'posts' "
                "AND indexdef LIKE '%(created_at, id)%' AND indexdef NOT LIKE '%author_id%'"
            )
            for name in names:
                await connection.execute(f'DROP INDEX "{name[0]}"')
        for _ in range(repeats):
            explained = f"EXPLAIN (ANALYZE, TIMING OFF, FORMAT JSON) {statement}"
            [plan] = json.loads(await connection.fetchval(explained, *values))
            taken.append(float(plan["Execution Time"]))
    finally:
        await transaction.rollback()
    return median(taken)


def figures(data: Data) -> dict[str, str]:
    """Return the figures. Keys have the rows of a full run."""
    return {
        f"depth.{way}.{row}.time": f"{number(time)} ms"
        for way, times in data["ways"].items()
        for row, time in zip(data["rows"], times, strict=True)
    }


def report(data: Data) -> str:
    head = ("way", *(f"row {row:,}" for row in data["rows"]))
    rows = [
        [WAYS[way], *(f"{number(time)} ms" for time in times)]
        for way, times in data["ways"].items()
    ]
    return f"{INTRODUCTION}\n\n{table(head, rows)}"


def charts(data: Data) -> list[Chart]:
    series = {WAYS[way]: times for way, times in data["ways"].items()}
    x = [max(row, 1) for row in data["rows"]]
    return [
        Lines(
            "depth",
            "A page of 20 posts, by its depth",
            "rows before the page",
            "ms in PostgreSQL",
            x,
            series,
            log_x=True,
            log_y=True,
        )
    ]


INTRODUCTION = """A page of 20 posts with their authors that begins at this row. The time is that
of PostgreSQL alone, with all data in its memory. The table of the ladder shows what clients see
of this."""
