"""COPY … TO STDOUT: PostgreSQL sends rows as text, several times faster than as objects.

SQLAlchemy cannot send COPY, so it goes through the connection of asyncpg, which is taken from the
pool for this one statement. It has no bind parameters.
"""

import asyncio
from collections.abc import Callable
from typing import Any, NamedTuple

from sqlalchemy.ext.asyncio import AsyncEngine

from app.infra.database.driver_errors import as_sqlalchemy_raises, is_lost
from app.infra.database.engine import command_seconds
from app.infra.database.query_stats import recorded
from app.infra.observability.background import detached


class Copied(NamedTuple):
    """The text that a COPY has sent, and its number of rows."""

    text: bytearray
    rows: int


async def copy_out(
    engine: AsyncEngine, name: str, query: str, convert: Callable[[bytes], bytes], **options: Any
) -> Copied:
    """Run a query, and return its rows as text, whole. The caller bounds their number and size.

    `convert` is applied to the text piece by piece. Each piece consists of whole rows. `name` is
    how logs and traces call the statement. `options` are those of COPY. The connection and the
    snapshot are given back before this returns. Raises `Unavailable` and `DBAPIError`.
    """
    text = bytearray()

    async def collect(piece: bytes) -> None:
        text.extend(convert(piece))

    async with engine.connect() as connection:
        driver: Any = (await connection.get_raw_connection()).driver_connection
        try:
            with recorded(name):
                seconds = command_seconds(engine)
                status = await _copy(driver, seconds, query, output=collect, **options)
        except BaseException as error:
            lost = is_lost(driver, error)
            if lost:
                await connection.invalidate()
            raised = as_sqlalchemy_raises(error, name, is_lost=lost)
            if raised is error:
                raise
            raise raised from error
    return Copied(text, int(status.split()[1]))


async def _copy(driver: Any, seconds: float, query: str, **options: Any) -> str:
    """Run the COPY. If this is cancelled or takes too long, close the socket at once.

    asyncpg itself must not be cancelled here: it fails when rows arrive after that. So its own
    timeout is longer.
    """
    copying = detached(driver.copy_from_query(query, timeout=2 * seconds, **options))
    try:
        async with asyncio.timeout(seconds):
            status: str = await asyncio.shield(copying)
    except (asyncio.CancelledError, TimeoutError):
        driver.terminate()
        await asyncio.wait([copying])
        copying.exception()  # that its connection is closed
        raise
    return status
