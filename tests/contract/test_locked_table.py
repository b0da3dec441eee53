"""While a table is locked, reads of it are refused in time, and cached answers go on."""

from collections.abc import AsyncIterator

import pytest
from fastapi import FastAPI
from sqlalchemy import text

from app.infra.web import response_cache
from coherent_cache import budget
from tests.application import client_of
from tests.cached_app import NO_CACHE, NO_STORE, settled
from tests.contract.declaration import Ids
from tests.contract.document import BY_ROUTE
from tests.contract.features import CACHED
from tests.features.users.factory import UserFactory
from tests.tables import SERVICE_TABLES

# The outbox stays free: a process reads it to tell whether it may trust its cache.
TABLES = [table for table in SERVICE_TABLES if table != "cache_outbox"]
LOCK = text(f"LOCK TABLE {', '.join(TABLES)} IN ACCESS EXCLUSIVE MODE")


@pytest.fixture
async def urls(
    service: FastAPI, make: UserFactory, ids: Ids, monkeypatch: pytest.MonkeyPatch
) -> AsyncIterator[list[str]]:
    """Addresses of cached routes. Only the first was read before the tables were locked."""
    urls = [BY_ROUTE[route].url(ids) for route in CACHED]
    urls.append("/v1/users/999")
    async with client_of(service) as client:
        await settled(service)
        (await client.get(urls[0])).raise_for_status()
    async with make.resources.database.transaction() as session:
        # On a busy machine the refusals take longer than a transaction may be idle.
        await session.execute(text("SET LOCAL idle_in_transaction_session_timeout = 0"))
        await session.execute(LOCK)
        for module in (budget, response_cache):
            monkeypatch.setattr(module, "READ_SECONDS", 0.3)
        yield urls


async def test_reads_are_refused_in_time_with_and_without_the_cache(
    service: FastAPI, urls: list[str]
) -> None:
    async with client_of(service) as client:
        for url in urls[1:]:
            for headers in ({}, NO_CACHE, NO_STORE):
                refused = await client.get(url, headers=headers)
                assert refused.status_code == 503
                assert refused.json()["detail"] == "The database took too long."
                assert refused.headers["retry-after"]


async def test_cached_answers_and_probes_go_on(service: FastAPI, urls: list[str]) -> None:
    async with client_of(service) as client:
        assert (await client.get(urls[0])).headers["x-cache"] == "HIT-L1"
        assert (await client.get(urls[0], headers=NO_CACHE)).headers["x-cache"] == "HIT"
        for probe in ("/livez", "/readyz"):
            assert (await client.get(probe)).status_code == 200
