"""Runs the application inside the test's process."""

from collections.abc import AsyncIterator, Iterator
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
    """Collect the SQL that is sent to the database inside the block."""
    sent: list[str] = []

    def record(_connection: Any, _cursor: Any, statement: str, *_: Any) -> None:
        sent.append(statement)

    engine = resources.database.engine.sync_engine
    event.listen(engine, "before_cursor_execute", record)
    try:
        yield sent
    finally:
        event.remove(engine, "before_cursor_execute", record)
