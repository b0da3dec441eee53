"""Runs the application inside the test's process."""

from collections.abc import AsyncIterator, Callable, Iterator
from contextlib import asynccontextmanager, contextmanager
from typing import Any
from unittest.mock import patch

import asyncpg
import httpx2
from fastapi import FastAPI
from sqlalchemy import event
from starlette.types import ASGIApp

from app.infra.observability.logs import Log
from app.infra.resources import ProcessResources
from app.main import create_app
from app.settings import Settings
from coherent_cache.relay import Relay
from tests.sample import notes

RUN_RELAY = Relay.run  # the fixture `relays_at_rest` replaces it


def build(settings: Settings, log: Log | None = None) -> FastAPI:
    """Build the application, with the routes of the sample feature."""
    app = create_app(settings, log)
    app.include_router(notes.router)
    return app


@asynccontextmanager
async def running(settings: Settings, log: Log | None = None) -> AsyncIterator[FastAPI]:
    """Build the application, with the routes of the sample feature, and run its lifespan."""
    app = build(settings, log)
    async with app.router.lifespan_context(app):
        yield app


def client_of(app: ASGIApp) -> httpx2.AsyncClient:
    """Return a client that calls `app` without a network."""
    transport = httpx2.ASGITransport(app, raise_app_exceptions=False)
    return httpx2.AsyncClient(transport=transport, base_url="http://test")


@contextmanager
def recorded_statements(resources: ProcessResources) -> Iterator[list[str]]:
    """Collect the SQL that is sent inside the block, by SQLAlchemy and by the driver itself."""
    sent: list[str] = []
    checked_out: set[Any] = set()
    fetch = asyncpg.Connection.fetch

    def record(_connection: Any, _cursor: Any, statement: str, *_: Any) -> None:
        sent.append(statement)

    async def record_and_fetch(driver: Any, query: str, *values: Any) -> Any:
        if driver in checked_out:
            sent.append(query)
        return await fetch(driver, query, *values)

    def note(connection: Any, *_: Any) -> None:
        checked_out.add(connection.driver_connection)

    engine = resources.database.engine.sync_engine
    listeners: dict[str, Callable[..., None]] = {"before_cursor_execute": record, "checkout": note}
    for name, listener in listeners.items():
        event.listen(engine, name, listener)
    try:
        with patch.object(asyncpg.Connection, "fetch", record_and_fetch):
            yield sent
    finally:
        for name, listener in listeners.items():
            event.remove(engine, name, listener)
