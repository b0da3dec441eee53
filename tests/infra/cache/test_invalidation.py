"""The sessions of this service invalidate what they commit, and its relay repeats what failed."""

from collections.abc import AsyncIterator
from contextlib import AsyncExitStack

import httpx2
import pytest
from fastapi import FastAPI
from pydantic import SecretStr
from sqlalchemy import text

from app.infra.database.sessions import Database, after_commit
from app.settings import Settings
from coherent_cache import Cache, Entry, invalidate
from coherent_cache.outbox import Outbox
from coherent_cache.relay import Relay
from tests.application import RUN_RELAY, client_of, running
from tests.cached_app import NO_CACHE, cache_of, patient, settled
from tests.coherent_cache.worker import Proxy, eventually
from tests.infra.cache.conftest import open_outbox, until_empty
from tests.sample.factory import NoteFactory
from tests.sample.notes import note_tag

Client = httpx2.AsyncClient

ROW = text(
    "INSERT INTO cache_outbox (tags, namespace, created_at) "
    "VALUES ('{tag}', :namespace, now() - interval '30 seconds')"
)


async def test_refused_request_invalidates_nothing(
    client: Client,
    make: NoteFactory,
    service: FastAPI,
    relay: Relay,
    outbox: Outbox,
) -> None:
    note, stranger = await make.note(), make.headers(await make.user())
    await settled(service)
    await relay.run_once()
    url = f"/test/notes/{note.id}"
    assert [(await client.get(url)).headers["x-cache"] for _ in range(2)] == ["MISS", "HIT-L1"]
    for headers, status in ((stranger, 403), ({}, 401)):
        edit = await client.patch(url, json={"title": "Mine"}, headers=headers)
        assert edit.status_code == status
    assert (await client.get(url)).headers["x-cache"] == "HIT-L1"
    assert (await client.get(url, headers=NO_CACHE)).headers["x-cache"] == "HIT"
    assert not (await outbox.poll()).changes


async def test_callbacks_run_after_the_invalidation(cache: Cache, database: Database) -> None:
    async def load() -> Entry:
        return Entry("key", ("tag",), b"value")

    async def look() -> None:
        found = await cache.store.look_up("key")
        is_cached.append((isinstance(found, Entry), cache.memory.get("key") is not None))

    is_cached: list[tuple[bool, bool]] = []
    await cache.reader.read("key", load)
    async with database.transaction() as session:
        after_commit(session, look)
        invalidate(session, "tag")
        await look()
    assert is_cached == [(True, True), (False, False)]


async def test_row_without_a_namespace_belongs_to_the_default_namespace(
    database: Database, settings: Settings
) -> None:
    async with database.transaction() as session:
        await session.execute(text("INSERT INTO cache_outbox (tags) VALUES ('{tag}')"))
    async with open_outbox(settings.database, "cache") as outbox:
        assert [change.tags for change in (await outbox.poll()).changes] == [["tag"]]


async def test_relay_does_not_wait_for_the_pool_of_the_requests(
    database: Database, settings: Settings, relay: Relay, outbox: Outbox
) -> None:
    async with database.transaction() as session:
        await session.execute(ROW, {"namespace": settings.cache.namespace})
    async with AsyncExitStack() as stack:
        for _ in range(settings.database.pool_size):
            session = await stack.enter_async_context(database.transaction())
            await session.execute(text("SELECT 1"))
        await relay.run_once()
    assert not (await outbox.poll()).changes


@pytest.fixture
async def proxy(settings: Settings) -> AsyncIterator[Proxy]:
    """A proxy before Valkey."""
    proxy = Proxy(settings.valkey.url.get_secret_value())
    await proxy.start()
    yield proxy
    proxy.stop()


@pytest.fixture
async def cut_off(
    settings: Settings, proxy: Proxy, cache: Cache, monkeypatch: pytest.MonkeyPatch
) -> AsyncIterator[FastAPI]:
    """An application that reaches Valkey only through the proxy. Its relay runs."""
    monkeypatch.setattr(Relay, "run", RUN_RELAY)
    far = settings.valkey.model_copy(update={"url": SecretStr(proxy.url)})
    async with running(
        patient(settings.model_copy(update={"valkey": far}), relay_seconds=0.01)
    ) as app:
        yield app


async def test_write_succeeds_without_valkey_and_is_relayed_when_valkey_returns(
    service: FastAPI, client: Client, cut_off: FastAPI, proxy: Proxy, outbox: Outbox
) -> None:
    make = NoteFactory(cut_off.state.resources)
    author = await make.user()
    note = await make.note(author)
    url, key = f"/test/notes/{note.id}", f"/test/notes/{note.id}?"
    await until_empty(outbox)
    await settled(cut_off)
    async with client_of(cut_off) as writer:
        for reader in (writer, client):
            assert (await reader.get(url)).json()["title"] == "A title"
        await eventually(lambda: cache_of(cut_off).memory.get(key) is not None)
        proxy.stop()
        edit = await writer.patch(url, json={"title": "New"}, headers=make.headers(author))
        assert edit.status_code == 200
        # The process that is cut off shows its own write. The others wait for the relay.
        assert cache_of(cut_off).memory.get(key) is None
        assert (await writer.get(url)).json()["title"] == "New"
        assert [change.tags for change in (await outbox.poll()).changes] == [[note_tag(note.id)]]
        await proxy.start()
        await until_empty(outbox)
        assert (await client.get(url, headers=NO_CACHE)).json()["title"] == "New"
        await settled(service)
        assert (await client.get(url)).json()["title"] == "New"
        assert (await writer.get(url)).json()["title"] == "New"
