"""Waits until a transaction waits for another one."""

import asyncio

from sqlalchemy import text

from app.infra.resources import ProcessResources

WAITING = text("""
    SELECT count(*) FROM pg_stat_activity
    WHERE wait_event_type = 'Lock' AND datname = current_database()
""")


async def waits_for_a_lock(resources: ProcessResources) -> None:
    """Wait until a transaction waits for a row that another one has changed or locked."""
    async with asyncio.timeout(60), resources.database.read() as session:
        while not await session.scalar(WAITING):
            await asyncio.sleep(0.01)
