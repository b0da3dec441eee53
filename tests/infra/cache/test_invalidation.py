"""What was committed is invalidated, whatever happens; what was rolled back is not."""

import asyncio
import socket
from collections.abc import AsyncIterator, Sequence
from contextlib import AsyncExitStack, asynccontextmanager

import httpx2
import pytest
from fastapi import FastAPI
from redis.exceptions import ConnectionError as ConnectionLost
from sqlalchemy import text

from app.infra.cache import invalidation
from app.infra.cache.cache import Cache
from app.infra.cache.entry import Entry
from app.infra.cache.invalidation import TAGS_AT_ONCE, Relay
from app.infra.cache.store import Store
from app.infra.cache.tags import invalidate
from app.infra.database.session import Database, after_commit
from app.infra.resources import Resources
from app.settings import Settings
from tests.application import client_of, running
from tests.factories import Factory
from tests.infra.cache.worker import Proxy, eventually
from tests.infra.web.test_response_cache import NO_CACHE, cache_of, patient, patient_app, settled

Client = httpx2.AsyncClient

OLD = text("INSERT INTO cache_outbox (tags, created_at) VALUES (:tags, now() - interval '1 hour')")
NOTED = text("SELECT tags FROM cache_outbox ORDER BY id")
LOCK = text("SELECT id FROM cache_outbox ORDER BY id LIMIT 1 FOR UPDATE")


class Died(BaseException):
    """Whoever was at it is no more."""


@pytest.fixture(scope="module")
async def service(settings: Settings) -> AsyncIterator[FastAPI]:
    async with patient_app(settings) as app:
        yield app


@pytest.fixture
async def cache(service: FastAPI, clean: None) -> Cache:
    await settled(service)
    cache = cache_of(service)
    cache.invalidation.done.clear()
    return cache


@pytest.fixture
def database(service: FastAPI, cache: Cache) -> Database:
    held: Resources = service.state.resources
    return held.database


@pytest.fixture
async def client(service: FastAPI, cache: Cache) -> AsyncIterator[Client]:
    async with client_of(service) as client:
        yield client


@pytest.fixture
def make(service: FastAPI, cache: Cache) -> Factory:
    return Factory(service.state.resources)


async def noted(database: Database) -> list[list[str]]:
    """Return the tags of each row that is not done, or not swept."""
    async with database.read() as session:
        return [list(tags) for tags in await session.scalars(NOTED)]


async def all_done(database: Database) -> None:
    """Wait until a relay has seen to everything."""
    async with asyncio.timeout(20):
        while await noted(database):
            await asyncio.sleep(0.01)


async def leave_behind(database: Database, *tags: str) -> None:
    """Do what a writer does that dies between its commit and the invalidation."""
    async with database.transaction() as session:
        await session.execute(OLD, {"tags": list(tags)})


async def remember(cache: Cache, *tags: str, key: str = "key") -> None:
    """Store an entry with these tags, in both tiers."""

    async def load() -> Entry:
        return Entry(key, tags, b"value")

    await cache.reader.read(key, load, skip_memory=True)
    assert cache.memory.get(key) is not None
    assert isinstance(await cache.store.look_up(key), Entry)


async def is_valid(cache: Cache, key: str = "key") -> bool:
    return isinstance(await cache.store.look_up(key), Entry)


def relay_of(app: FastAPI) -> Relay:
    """Return a relay that is not running: each step is for the test to take."""
    held: Resources = app.state.resources
    return Relay(cache_of(app).invalidation, held.database, 0.01)


@asynccontextmanager
async def with_relay(settings: Settings) -> AsyncIterator[FastAPI]:
    """Run an application whose relay is at work."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(invalidation, "SWEEP_SECONDS", 0.01)
        patch.setattr(invalidation, "AFTER_ERROR_SECONDS", 0.01)
        async with running(patient(settings, relay_seconds=0.01)) as app:
            yield app


# A transaction


async def test_what_was_committed_is_invalid_when_the_block_is_left(
    cache: Cache, database: Database
) -> None:
    await remember(cache, "tag", "other")
    await remember(cache, "other", key="other")
    async with database.transaction() as session:
        invalidate(session, "tag")
        assert await is_valid(cache)
        assert cache.memory.get("key") is not None
    assert not await is_valid(cache)
    assert cache.memory.get("key") is None
    assert await is_valid(cache, "other")
    assert cache.memory.get("other") is not None


async def test_what_was_rolled_back_invalidates_nothing(
    cache: Cache, database: Database, monkeypatch: pytest.MonkeyPatch
) -> None:
    await remember(cache, "tag")
    with pytest.raises(LookupError):
        async with database.transaction() as session:
            invalidate(session, "tag")
            await session.execute(OLD, {"tags": ["a change"]})
            raise LookupError
    assert await is_valid(cache)
    assert cache.memory.get("key") is not None
    assert not await noted(database)
    assert not cache.invalidation.done


async def test_a_commit_that_fails_invalidates_nothing(cache: Cache, database: Database) -> None:
    await remember(cache, "tag")
    async with database.transaction() as session:
        await session.execute(
            text("CREATE TABLE late (id int UNIQUE DEFERRABLE INITIALLY DEFERRED)")
        )
    try:
        with pytest.raises(Exception, match="late_id_key"):
            async with database.transaction() as session:
                await session.execute(text("INSERT INTO late VALUES (1), (1)"))
                invalidate(session, "tag")
    finally:
        async with database.transaction() as session:
            await session.execute(text("DROP TABLE late"))
    assert await is_valid(cache)
    assert not await noted(database)
    assert not cache.invalidation.done


async def test_a_refused_request_invalidates_nothing(
    client: Client, cache: Cache, make: Factory, database: Database, service: FastAPI
) -> None:
    post = await make.post()
    await settled(service)
    await relay_of(service)._sweep()
    url = f"/v1/posts/{post.id}"
    assert [(await client.get(url)).headers["x-cache"] for _ in range(2)] == ["MISS", "HIT-L1"]
    stranger = make.headers(await make.user())
    await relay_of(service)._sweep()
    for headers, status in ((stranger, 403), ({}, 401)):
        edit = await client.patch(url, json={"title": "Mine"}, headers=headers)
        assert edit.status_code == status
    assert (await client.get(url)).headers["x-cache"] == "HIT-L1"
    assert (await client.get(url, headers=NO_CACHE)).headers["x-cache"] == "HIT"
    assert not await noted(database)


async def test_the_tags_are_in_the_transaction(cache: Cache, database: Database) -> None:
    seen: list[list[list[str]]] = []

    async def look() -> None:
        seen.append(await noted(database))

    async with database.transaction() as session:
        invalidate(session, "tag")
        invalidate(session, "other", "tag")
        assert not await noted(database)
        after_commit(session, look)
    assert seen == [[["other", "tag"]]]


async def test_a_transaction_that_names_nothing_notes_nothing(
    cache: Cache, database: Database
) -> None:
    async with database.transaction() as session:
        await session.execute(text("SELECT 1"))
    assert not await noted(database)
    assert not cache.invalidation.done


async def test_callbacks_run_after_the_invalidation(cache: Cache, database: Database) -> None:
    await remember(cache, "tag")
    seen: list[object] = []

    async def look() -> None:
        seen.extend([await is_valid(cache), cache.memory.get("key")])

    async with database.transaction() as session:
        after_commit(session, look)
        invalidate(session, "tag")
    assert seen == [False, None]


async def test_more_tags_than_one_command_takes(cache: Cache, database: Database) -> None:
    tags = [f"tag:{number}" for number in range(2 * TAGS_AT_ONCE + 1)]
    for tag in tags:
        await remember(cache, tag, key=tag)
    await remember(cache, "other")
    async with database.transaction() as session:
        invalidate(session, *tags)
    assert not [tag for tag in tags if await is_valid(cache, tag)]
    assert not [tag for tag in tags if cache.memory.get(tag)]
    assert await is_valid(cache)
    assert [len(row) for row in await noted(database)] == [len(tags)]


async def test_a_load_that_is_under_way_is_not_stored(cache: Cache, database: Database) -> None:
    begun, may_end = asyncio.Event(), asyncio.Event()

    async def load() -> Entry:
        begun.set()
        await may_end.wait()
        return Entry("key", ("tag",), b"old")

    reading = asyncio.create_task(cache.reader.read("key", load))
    await begun.wait()
    async with database.transaction() as session:
        invalidate(session, "tag")
    may_end.set()
    assert (await reading).entry.value == b"old"
    assert not await is_valid(cache)
    assert cache.memory.get("key") is None


# Rows


async def test_what_is_done_is_swept(cache: Cache, database: Database, service: FastAPI) -> None:
    for tag in ("one", "two"):
        async with database.transaction() as session:
            invalidate(session, tag)
    assert await noted(database) == [["one"], ["two"]]
    await relay_of(service)._sweep()
    assert not await noted(database)
    assert not cache.invalidation.done


async def test_a_sweep_leaves_what_is_not_done(
    cache: Cache, database: Database, service: FastAPI
) -> None:
    await leave_behind(database, "not done")
    async with database.transaction() as session:
        invalidate(session, "done")
    await relay_of(service)._sweep()
    assert await noted(database) == [["not done"]]


async def test_a_running_relay_sweeps(database: Database, settings: Settings) -> None:
    async with with_relay(settings) as app:
        async with app.state.resources.database.transaction() as session:
            invalidate(session, "tag")
        await all_done(database)


async def test_a_relay_does_what_a_writer_left_behind(
    cache: Cache, database: Database, settings: Settings
) -> None:
    await remember(cache, "tag", key="one")
    await remember(cache, "tag:2", key="two")
    await remember(cache, "other", key="other")
    await leave_behind(database, "tag", "tag:1")
    await leave_behind(database, "tag:2")
    assert await is_valid(cache, "one")
    async with with_relay(settings):
        await all_done(database)
    assert not await is_valid(cache, "one")
    assert not await is_valid(cache, "two")
    assert await is_valid(cache, "other")
    await eventually(lambda: cache.memory.get("one") is None)
    await eventually(lambda: cache.memory.get("two") is None)
    assert cache.memory.get("other") is not None


async def test_a_writer_that_dies_after_its_commit_is_seen_to(
    cache: Cache, database: Database, service: FastAPI, monkeypatch: pytest.MonkeyPatch
) -> None:
    await remember(cache, "tag")

    async def die(self: Store, tags: Sequence[str]) -> None:
        raise Died

    with monkeypatch.context() as patch, pytest.raises(Died):
        patch.setattr(Store, "invalidate", die)
        async with database.transaction() as session:
            invalidate(session, "tag")
    assert await noted(database) == [["tag"]]
    assert await is_valid(cache)
    assert cache.memory.get("key") is None  # its own memory it has dropped all the same
    monkeypatch.setattr(invalidation, "RELAYED_AGE_SECONDS", 0)
    await relay_of(service)._relay()
    assert not await is_valid(cache)
    assert not await noted(database)


async def test_a_relay_leaves_a_writer_its_time(
    cache: Cache, database: Database, service: FastAPI, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(invalidation, "RELAYED_AGE_SECONDS", 600)
    await remember(cache, "old")
    await remember(cache, "young", key="young")
    async with database.transaction() as session:
        await session.execute(text("INSERT INTO cache_outbox (tags) VALUES ('{young}')"))
    await leave_behind(database, "old")
    await relay_of(service)._relay()
    assert await noted(database) == [["young"]]
    assert not await is_valid(cache)
    assert await is_valid(cache, "young")


async def test_relays_do_not_wait_for_each_other(
    cache: Cache, database: Database, service: FastAPI
) -> None:
    await leave_behind(database, "held")
    await leave_behind(database, "free")
    await remember(cache, "free")
    async with database.transaction() as another_relay:
        await another_relay.execute(LOCK)
        await relay_of(service)._relay()
        assert await noted(database) == [["held"]]
        assert not await is_valid(cache)
    await relay_of(service)._relay()
    assert not await noted(database)


async def test_two_relays_at_once_do_everything_once(
    cache: Cache, database: Database, service: FastAPI, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(invalidation, "ROWS_AT_ONCE", 3)
    dropped: list[str] = []
    real = Store.invalidate

    async def recorded(self: Store, tags: Sequence[str]) -> None:
        dropped.extend(tags)
        await real(self, tags)

    monkeypatch.setattr(Store, "invalidate", recorded)
    tags = [f"tag:{number}" for number in range(20)]
    for tag in tags:
        await leave_behind(database, tag)
    await asyncio.gather(*(relay_of(service)._relay() for _ in range(2)))
    while await noted(database):  # what both have skipped
        await relay_of(service)._relay()
    assert sorted(dropped) == sorted(tags)


async def test_a_relay_does_more_rows_than_it_takes_at_once(
    cache: Cache, database: Database, service: FastAPI, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(invalidation, "ROWS_AT_ONCE", 2)
    for number in range(5):
        await leave_behind(database, f"tag:{number}")
    await relay_of(service)._relay()
    assert not await noted(database)


async def test_a_relay_that_fails_leaves_the_rows_to_the_next(
    cache: Cache, database: Database, service: FastAPI, monkeypatch: pytest.MonkeyPatch
) -> None:
    await leave_behind(database, "tag")
    await remember(cache, "tag")

    async def fail(self: Store, tags: Sequence[str]) -> None:
        raise ConnectionLost

    with monkeypatch.context() as patch, pytest.raises(ConnectionLost):
        patch.setattr(Store, "invalidate", fail)
        await relay_of(service)._relay()
    assert await noted(database) == [["tag"]]
    assert await is_valid(cache)
    await relay_of(service)._relay()
    assert not await is_valid(cache)


# Valkey is away


@pytest.fixture
async def proxy(settings: Settings) -> AsyncIterator[Proxy]:
    """Stands before Valkey."""
    with socket.socket() as listener:
        listener.bind(("127.0.0.1", 0))
        port = listener.getsockname()[1]
    proxy = Proxy(settings.valkey, port)
    await proxy.start()
    yield proxy
    proxy.stop()


async def test_a_write_succeeds_without_valkey_and_a_relay_does_it_later(
    service: FastAPI, client: Client, database: Database, settings: Settings, proxy: Proxy
) -> None:
    far = settings.model_copy(update={"valkey": proxy.settings()})
    async with AsyncExitStack() as stack:
        app = await stack.enter_async_context(with_relay(far))
        writer = await stack.enter_async_context(client_of(app))
        make = Factory(app.state.resources)
        author = await make.user()
        post = await make.post(author)
        await all_done(database)
        await settled(app)
        url = f"/v1/posts/{post.id}"
        for who in (writer, client):
            assert (await who.get(url)).json()["title"] == "A title"
        key = f"{url}?"
        await eventually(lambda: cache_of(app).memory.get(key) is not None)
        proxy.stop()
        answer = await writer.patch(url, json={"title": "New"}, headers=make.headers(author))
        assert answer.status_code == 200
        # Whoever was cut off shows its own write.
        assert cache_of(app).memory.get(key) is None
        assert (await writer.get(url)).json()["title"] == "New"
        # Others reach Valkey, and wait for the relay: none of theirs is at work in this test.
        assert await noted(database) == [[f"post:{post.id}"]]
        await proxy.start()
        await all_done(database)
        assert (await client.get(url, headers=NO_CACHE)).json()["title"] == "New"
        await settled(service)
        assert (await client.get(url)).json()["title"] == "New"
        assert (await writer.get(url)).json()["title"] == "New"


async def test_others_relay_what_a_process_without_valkey_has_written(
    cache: Cache, database: Database, settings: Settings, proxy: Proxy
) -> None:
    await remember(cache, "tag")
    far = settings.model_copy(update={"valkey": proxy.settings()})
    proxy.stop()
    async with running(far) as cut_off:
        async with cut_off.state.resources.database.transaction() as session:
            invalidate(session, "tag")
        assert not cache_of(cut_off).invalidation.done
    assert await is_valid(cache)
    async with with_relay(settings):
        await all_done(database)
    assert not await is_valid(cache)


async def test_an_invalidation_does_not_ask_the_breaker(cache: Cache, database: Database) -> None:
    await remember(cache, "tag")
    for _ in range(3):
        cache.store.breaker.failed()
    cache.store.breaker._closed_again_at = float("inf")
    assert not cache.store.breaker.allows()
    async with database.transaction() as session:
        invalidate(session, "tag")
    assert cache.store.breaker.allows()
    assert not await is_valid(cache)
