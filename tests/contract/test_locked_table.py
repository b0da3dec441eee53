"""While a table is locked, reads of it are refused in time, and cached answers go on."""

from collections.abc import AsyncIterator

import pytest
from fastapi import FastAPI
from sqlalchemy import text

from app.infra.dependencies import ProcessResources
from coherent_cache import budget
from tests.application import client_of
from tests.cached_app import NO_CACHE, NO_STORE, settled
from tests.factories import Factory

LOCK = text("LOCK TABLE posts, users IN ACCESS EXCLUSIVE MODE")


@pytest.fixture
async def paths(
    service: FastAPI, resources: ProcessResources, clean: None, monkeypatch: pytest.MonkeyPatch
) -> AsyncIterator[list[str]]:
    """Addresses of a locked table: the first was read before, the others were not."""
    post = await Factory(resources).post()
    paths = [
        f"/v1/posts/{post.id}",
        "/v1/posts",
        f"/v1/users/{post.author_id}",
        "/v1/posts?limit=3",
    ]
    async with client_of(service) as client:
        await settled(service)
        (await client.get(paths[0])).raise_for_status()
    async with resources.database.transaction() as session:
        await session.execute(LOCK)
        monkeypatch.setattr(budget, "READ_SECONDS", 0.3)
        yield paths


async def test_reads_are_refused_in_time_whether_or_not_they_look_at_the_cache(
    service: FastAPI, paths: list[str]
) -> None:
    async with client_of(service) as client:
        for path in paths[1:]:
            for headers in ({}, NO_CACHE, NO_STORE):
                refused = await client.get(path, headers=headers)
                assert refused.status_code == 503
                assert refused.json()["detail"] == "The database took too long."
                assert refused.headers["retry-after"]


async def test_what_is_cached_is_answered_and_so_are_probes(
    service: FastAPI, paths: list[str]
) -> None:
    async with client_of(service) as client:
        assert (await client.get(paths[0])).headers["x-cache"] == "HIT-L1"
        assert (await client.get(paths[0], headers=NO_CACHE)).headers["x-cache"] == "HIT"
        for probe in ("/livez", "/readyz"):
            assert (await client.get(probe)).status_code == 200
