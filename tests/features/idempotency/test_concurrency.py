"""Requests with one key that arrive at the same time."""

import asyncio
from collections.abc import AsyncIterator

import httpx2
import pytest
from fastapi import FastAPI
from sqlalchemy import func, select

from app.features.idempotency.models import IdempotencyKey
from app.features.idempotency.queries import insert_key, try_lock
from app.features.users.models import User
from app.infra.resources import ProcessResources
from app.settings import Settings
from tests.application import client_of, running
from tests.features.idempotency import routes
from tests.features.idempotency.factory import KeyFactory
from tests.sample.notes import Note

Client = httpx2.AsyncClient
Headers = dict[str, str]

AT_ONCE = 50
PATIENCE_SECONDS = 60


async def stored(resources: ProcessResources) -> tuple[int, int]:
    """Return how many notes and keys there are."""
    notes, keys = (select(func.count()).select_from(one) for one in (Note, IdempotencyKey))
    async with resources.database.read() as session:
        return await session.scalar(notes) or 0, await session.scalar(keys) or 0


async def until_it_waits() -> None:
    """Wait until an endpoint runs, so that its request holds the key."""
    async with asyncio.timeout(PATIENCE_SECONDS):
        while not routes.RAN:
            await asyncio.sleep(0.01)


async def test_one_request_runs_and_the_others_are_told_to_wait(
    client: Client, held: ProcessResources, headers: Headers
) -> None:
    requests = [
        asyncio.create_task(client.post("/once/wait", headers=headers)) for _ in range(AT_ONCE)
    ]
    refused = 0
    for next_one in asyncio.as_completed(requests, timeout=PATIENCE_SECONDS):
        answer = await next_one
        assert (answer.status_code, answer.json()["code"]) == (409, "idempotency_key_in_use")
        assert int(answer.headers["retry-after"]) >= 1
        if (refused := refused + 1) == AT_ONCE - 1:
            break
    assert held.database.engine.pool.checkedout() == 1  # type: ignore[attr-defined]
    routes.GATE.set()
    done = await asyncio.gather(*requests)
    assert sorted(one.status_code for one in done) == [200] + [409] * (AT_ONCE - 1)
    assert await stored(held) == (1, 1)
    assert (await client.post("/once/wait", headers=headers)).is_success
    assert await stored(held) == (1, 1)


async def test_all_who_repeat_a_finished_request_at_once_get_its_answer(
    client: Client, held: ProcessResources, headers: Headers
) -> None:
    first = await client.post("/once/model", json={}, headers=headers)
    assert first.status_code == 201
    again = await asyncio.gather(
        *(client.post("/once/model", json={}, headers=headers) for _ in range(AT_ONCE))
    )
    assert [(one.status_code, one.content) for one in again] == [(201, first.content)] * AT_ONCE
    assert all(one.headers["idempotent-replayed"] == "true" for one in again)
    assert await stored(held) == (1, 1)


async def test_finished_request_is_replayed_while_another_one_holds_its_key(
    client: Client, held: ProcessResources, owner: User, headers: Headers
) -> None:
    first = await client.post("/once/model", json={}, headers=headers)
    async with held.database.transaction() as session:
        assert await try_lock(session, owner.id, headers["Idempotency-Key"])
        again = await client.post("/once/model", json={}, headers=headers)
        other = await client.post("/once/model", json={"title": "Another"}, headers=headers)
    assert (again.status_code, again.content) == (201, first.content)
    assert (other.status_code, other.json()["code"]) == (422, "idempotency_key_reused")
    assert await stored(held) == (1, 1)


async def test_keys_and_users_do_not_wait_for_each_other(
    client: Client, make: KeyFactory, headers: Headers
) -> None:
    running = asyncio.create_task(client.post("/once/wait", headers=headers))
    other = make.headers(await make.user())
    await until_it_waits()
    for sent in ({**headers, "Idempotency-Key": "two"}, {**headers, **other}):
        assert (await client.post("/once/empty", headers=sent)).status_code == 204
    routes.GATE.set()
    assert (await running).status_code == 200


@pytest.fixture
async def impatient(settings: Settings, clean: None) -> AsyncIterator[FastAPI]:
    """An application whose requests have to be answered at once, with one connection."""
    limits = settings.limits.model_copy(update={"request_seconds": 0.5})
    database = settings.database.model_copy(update={"pool_size": 1})
    changed = settings.model_copy(update={"limits": limits, "database": database})
    async with running(changed) as app:
        app.include_router(routes.router)
        yield app


async def test_request_that_took_too_long_may_be_sent_again(
    impatient: FastAPI, headers: Headers
) -> None:
    routes.reset()
    held: ProcessResources = impatient.state.resources
    async with client_of(impatient) as client:
        assert (await client.post("/once/wait", headers=headers)).status_code == 503
        assert await stored(held) == (0, 0)
        routes.GATE.set()
        async with asyncio.timeout(PATIENCE_SECONDS):
            while not (await client.post("/once/wait", headers=headers)).is_success:
                await asyncio.sleep(0.1)
    assert await stored(held) == (1, 1)


async def test_fresh_user_needs_no_second_connection(impatient: FastAPI, headers: Headers) -> None:
    async with client_of(impatient) as client, asyncio.timeout(PATIENCE_SECONDS):
        for _ in range(2):
            while not (await client.post("/once/fresh", headers=headers)).is_success:
                await asyncio.sleep(0.1)


async def test_deletion_of_the_account_leaves_no_key(
    client: Client, held: ProcessResources, make: KeyFactory, owner: User, headers: Headers
) -> None:
    """A request that is running while its account is deleted ends as it would without a key."""
    running = asyncio.create_task(client.post("/once/wait", headers=headers))
    await until_it_waits()
    assert (await client.delete("/v1/users/me", headers=make.headers(owner))).status_code == 204
    routes.GATE.set()
    assert (await running).status_code == 200
    assert await stored(held) == (1, 0)
    assert (await client.post("/once/wait", headers=headers)).status_code == 401


async def test_deletion_of_the_account_waits_for_a_request_that_stores_its_answer(
    client: Client, held: ProcessResources, make: KeyFactory, owner: User
) -> None:
    async with held.database.transaction() as session:
        values = {"user_id": owner.id, "key": "one", "fingerprint": b"", "status": 204}
        assert await insert_key(session, {**values, "headers": [], "body": b""})
        deletion = asyncio.create_task(client.delete("/v1/users/me", headers=make.headers(owner)))
        await asyncio.wait({deletion}, timeout=1)
    assert (await deletion).status_code == 204
    assert await stored(held) == (0, 0)
