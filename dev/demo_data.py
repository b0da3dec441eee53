"""Fills an empty database with the demo data of all features: the people of a blog, their texts.

The same size gives the same rows on every machine. All rows are stored in one transaction.
"""

from collections.abc import Callable, Iterator
from importlib import import_module
from pathlib import Path

import asyncpg

from app.infra.settings_base.urls import asyncpg_arguments, postgresql_url
from dev.demo_blog import Blog, Demo, Row, Table
from dev.features import features_in_order
from dev.terminal import StatusLine

Progress = Callable[[str, int, int], None]


class DatabaseNotEmpty(Exception):
    """The database has users already."""


def demos() -> list[Demo]:
    """Return what the modules in dev/demo declare, each parent before its children."""
    modules = {file.stem for file in (Path(__file__).parent / "demo").glob("*.py")}
    names = [name for name in features_in_order() if name in modules]
    return [import_module(f"dev.demo.{name}").DEMO for name in names]


def demo_tables(size: int) -> list[Table]:
    """Return the tables in the order in which they can be filled. Read their rows once."""
    blog = Blog(size)
    return [table for demo in demos() for table in demo.tables(blog)]


async def load(database_url: str, size: int, *, progress: Progress | None = None) -> None:
    """Store `size` posts, a tenth as many users, and what else there is in proportion."""
    progress = progress or show_progress(StatusLine())
    connection = await asyncpg.connect(**asyncpg_arguments(postgresql_url(database_url)))
    try:
        async with connection.transaction():
            # Sign-ups wait for the end of the load; one of them could take an id of the demo data.
            await connection.execute("LOCK TABLE users IN SHARE ROW EXCLUSIVE MODE")
            if await connection.fetchval("SELECT EXISTS (SELECT FROM users)"):
                raise DatabaseNotEmpty("The demo data needs an empty database; this one has users.")
            tables = demo_tables(size)
            for table in tables:
                await _copy(connection, table, _added_columns(tables, table.name), progress)
        await connection.execute(f"ANALYZE {', '.join(table.name for table in tables)}")
    finally:
        await connection.close()


def _added_columns(tables: list[Table], name: str) -> dict[str, Iterator[object]]:
    """Return the columns that other features add to a table."""
    return {
        column: iter(values)
        for table in tables
        for column, values in table.adds.get(name, {}).items()
    }


async def _copy(
    connection: asyncpg.Connection,
    table: Table,
    added: dict[str, Iterator[object]],
    progress: Progress,
) -> None:
    step = max(1, table.total // 100)

    def with_progress() -> Iterator[Row]:
        for done, row in enumerate(table.rows):
            if done % step == 0:
                progress(table.name, done, table.total)
            yield *row, *map(next, added.values())

    columns = [*table.columns.split(), *added]
    try:
        await connection.copy_records_to_table(table.name, records=with_progress(), columns=columns)
    except KeyboardInterrupt:  # asyncpg does not end the COPY, and the rollback would wait for it
        connection.terminate()
        raise
    await connection.execute(
        "SELECT setval(pg_get_serial_sequence($1, 'id'), $2)", table.name, table.total
    )
    progress(table.name, table.total, table.total)


def show_progress(line: StatusLine) -> Progress:
    def show(table: str, done: int, total: int) -> None:
        if done < total:
            line.show(f"Loading demo {table}: {done:,} of {total:,}")
        else:
            line.finish(f"Loaded {total:,} demo {table}")

    return show
