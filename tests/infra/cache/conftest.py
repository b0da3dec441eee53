"""An application with a patient cache, and helpers to watch its outbox."""

import asyncio
import time
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from functools import partial

import httpx2
import pytest
from fastapi import FastAPI
from sqlalchemy.exc import SQLAlchemyError

from app.errors import Unavailable
from app.infra.cache.settings import CacheSettings, ValkeySettings
from app.infra.cache.wiring import cache_config
from app.infra.database.driver import fetch
from app.infra.database.engine import open_outbox_engine
from app.infra.database.sessions import Database
from app.infra.database.settings import DatabaseSettings
from app.infra.resources import ProcessResources
from coherent_cache import Cache
from coherent_cache.outbox import Outbox
from coherent_cache.relay import Relay
from tests.application import client_of
from tests.cached_app import cache_of, settled
from tests.sample.factory import NoteFactory


@pytest.fixture
async def cache(service: FastAPI, clean: None) -> Cache:
    """The cache of `service`. It is trusted, whatever the test before has done."""
    cache = cache_of(service)
    cache.trust.polled(time.monotonic(), behind_seconds=0)
    await settled(service)
    cache.invalidation.completed_ids.clear()
    return cache


@pytest.fixture
def database(service: FastAPI, cache: Cache) -> Database:
    held: ProcessResources = service.state.resources
    return held.database


@pytest.fixture
async def client(service: FastAPI, cache: Cache) -> AsyncIterator[httpx2.AsyncClient]:
    async with client_of(service) as client:
        yield client


@pytest.fixture
def make(service: FastAPI, cache: Cache) -> NoteFactory:
    return NoteFactory(service.state.resources)


@pytest.fixture
async def outbox(service: FastAPI, cache: Cache) -> AsyncIterator[Outbox]:
    sections = service.state.resources.settings
    namespace = sections[CacheSettings].namespace
    async with open_outbox(sections[DatabaseSettings], namespace) as outbox:
        yield outbox


@pytest.fixture
def relay(service: FastAPI, cache: Cache, outbox: Outbox) -> Relay:
    """A relay beside that of the application, which does not run. A test runs each turn."""
    sections = service.state.resources.settings
    config = cache_config(sections[ValkeySettings], sections[CacheSettings])
    errors = (SQLAlchemyError, Unavailable)
    return Relay(outbox, cache.store, cache.invalidation, cache.trust, config, errors)


@asynccontextmanager
async def open_outbox(
    settings: DatabaseSettings, namespace: str, application_name: str = "test"
) -> AsyncIterator[Outbox]:
    """Open the outbox as the application does."""
    engine = open_outbox_engine(settings, application_name)
    try:
        yield Outbox(partial(fetch, engine), namespace)
    finally:
        await engine.dispose()


async def until_empty(outbox: Outbox) -> None:
    """Wait until every change has been relayed."""
    async with asyncio.timeout(60):
        while (await outbox.poll()).changes:
            await asyncio.sleep(0.01)
