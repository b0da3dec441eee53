"""Runs the application inside the test's process."""

from collections.abc import AsyncIterator, Callable, Iterator
from contextlib import asynccontextmanager, contextmanager
from typing import Any

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

TRANSACTIONS = {"BEGIN", "COMMIT", "ROLLBACK"}
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
    connections: list[Any] = []

    def record(_connection: Any, _cursor: Any, statement: str, *_: Any) -> None:
        sent.append(statement)

    def record_query(query: Any) -> None:  # the driver does not report what SQLAlchemy has prepared
        if query.query.rstrip(";").split()[0] not in TRANSACTIONS:
            sent.append(query.query)

    def watch(connection: Any, *_: Any) -> None:
        connections.append(connection.driver_connection)
        connection.driver_connection.add_query_logger(record_query)

    engine = resources.database.engine.sync_engine
    listeners: dict[str, Callable[..., None]] = {"before_cursor_execute": record, "checkout": watch}
    for name, listener in listeners.items():
        event.listen(engine, name, listener)
    try:
        yield sent
    finally:
        for name, listener in listeners.items():
            event.remove(engine, name, listener)
        for connection in connections:
            connection.remove_query_logger(record_query)
