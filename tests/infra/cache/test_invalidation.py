"""What was committed is invalidated, whatever happens; what was rolled back is not."""

import asyncio
import socket
import time
from collections.abc import AsyncIterator, Sequence
from contextlib import AsyncExitStack, asynccontextmanager

import httpx2
import pytest
from fastapi import FastAPI
from pydantic import SecretStr
from redis.exceptions import ConnectionError as ConnectionLost
from sqlalchemy import text

from app.infra.database.sessions import Database, after_commit
from app.infra.dependencies import ProcessResources
from app.settings import Settings
from coherent_cache import Cache, invalidate
from coherent_cache import relay as relay_module
from coherent_cache.entry import Entry
from coherent_cache.invalidation import TAGS_PER_COMMAND
from coherent_cache.relay import EXPIRY_MARGIN_SECONDS, Relay
from coherent_cache.store import Store
from tests.application import RUN_RELAY, client_of, running
from tests.cached_app import NO_CACHE, cache_of, patient, settled
from tests.coherent_cache.worker import Proxy, eventually
from tests.factories import Factory
from tests.infra.cache.relays import open_outbox, relay_of

Client = httpx2.AsyncClient

OLD = text(
    "INSERT INTO cache_outbox (tags, namespace, created_at) "
    "VALUES (:tags, :namespace, now() - interval '30 seconds')"
)
MADE_OLDER = text(
    "UPDATE cache_outbox SET created_at = clock_timestamp() - make_interval(secs => :seconds)"
)
NOTED = text("SELECT tags FROM cache_outbox ORDER BY id")


class Died(BaseException):
    """Whoever was at it is no more."""


@pytest.fixture
async def cache(service: FastAPI, clean: None) -> Cache:
    await settled(service)
    cache = cache_of(service)
    cache.invalidation.completed_ids.clear()
    cache.trust.polled(time.monotonic(), behind_seconds=0)  # whatever the test before has left
    return cache


@pytest.fixture
def database(service: FastAPI, cache: Cache) -> Database:
    held: ProcessResources = service.state.resources
    return held.database


@pytest.fixture
async def client(service: FastAPI, cache: Cache) -> AsyncIterator[Client]:
    async with client_of(service) as client:
        yield client


@pytest.fixture
def make(service: FastAPI, cache: Cache) -> Factory:
    return Factory(service.state.resources)


async def noted(database: Database) -> list[list[str | None]]:
    """Return the tags of each row that is not deleted."""
    async with database.read() as session:
        return [list(tags) for tags in await session.scalars(NOTED)]


async def all_done(database: Database) -> None:
    """Wait until a relay has seen to everything."""
    async with asyncio.timeout(20):
        while await noted(database):
            await asyncio.sleep(0.01)


async def leave_behind(cache: Cache, database: Database, *tags: str | None) -> None:
    """Do what a writer does that dies between its commit and the invalidation."""
    async with database.transaction() as session:
        await session.execute(OLD, {"tags": list(tags), "namespace": namespace_of(cache)})


def namespace_of(cache: Cache) -> str:
    return cache.store.prefix[1:-1]


async def remember(cache: Cache, *tags: str, key: str = "key") -> None:
    """Store an entry with these tags, in both tiers."""

    async def load() -> Entry:
        return Entry(key, tags, b"value")

    await cache.reader.read(key, load, skip_memory=True)
    assert cache.memory.get(key) is not None
    assert isinstance(await cache.store.look_up(key), Entry)


async def is_valid(cache: Cache, key: str = "key") -> bool:
    return isinstance(await cache.store.look_up(key), Entry)


@asynccontextmanager
async def open_relay(cache: Cache, settings: Settings) -> AsyncIterator[Relay]:
    """Open another relay of the same process, which is not running: each turn is the test's."""
    async with open_outbox(settings.database, namespace_of(cache), "app") as outbox:
        yield relay_of(cache, outbox, settings)


@pytest.fixture
async def relay(cache: Cache, settings: Settings) -> AsyncIterator[Relay]:
    async with open_relay(cache, settings) as relay:
        yield relay


@asynccontextmanager
async def with_relay(settings: Settings) -> AsyncIterator[FastAPI]:
    """Run an application whose relay is at work."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(Relay, "run", RUN_RELAY)
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
            await session.execute(OLD, {"tags": ["a change"], "namespace": namespace_of(cache)})
            raise LookupError
    assert await is_valid(cache)
    assert cache.memory.get("key") is not None
    assert not await noted(database)
    assert not cache.invalidation.completed_ids


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
    assert not cache.invalidation.completed_ids


async def test_a_refused_request_invalidates_nothing(
    client: Client, cache: Cache, make: Factory, database: Database, service: FastAPI, relay: Relay
) -> None:
    post = await make.post()
    await settled(service)
    await relay.run_once()
    url = f"/v1/posts/{post.id}"
    assert [(await client.get(url)).headers["x-cache"] for _ in range(2)] == ["MISS", "HIT-L1"]
    stranger = make.headers(await make.user())
    await relay.run_once()
    for headers, status in ((stranger, 403), ({}, 401)):
        edit = await client.patch(url, json={"title": "Mine"}, headers=headers)
        assert edit.status_code == status
    assert (await client.get(url)).headers["x-cache"] == "HIT-L1"
    assert (await client.get(url, headers=NO_CACHE)).headers["x-cache"] == "HIT"
    assert not await noted(database)


async def test_the_tags_are_in_the_transaction(cache: Cache, database: Database) -> None:
    seen: list[object] = []

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
    assert not cache.invalidation.completed_ids


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
    tags = [f"tag:{number}" for number in range(2 * TAGS_PER_COMMAND + 1)]
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


async def test_a_turn_deletes_what_is_done(cache: Cache, database: Database, relay: Relay) -> None:
    for tag in ("one", "two"):
        async with database.transaction() as session:
            invalidate(session, tag)
    assert await noted(database) == [["one"], ["two"]]
    await relay.run_once()
    assert not await noted(database)
    assert not cache.invalidation.completed_ids


async def test_a_running_relay_deletes_what_is_done(database: Database, settings: Settings) -> None:
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
    await leave_behind(cache, database, "tag", "tag:1")
    await leave_behind(cache, database, "tag:2")
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
    cache: Cache, database: Database, settings: Settings, monkeypatch: pytest.MonkeyPatch
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
    monkeypatch.setattr(relay_module, "GRACE_SECONDS", -1)
    async with open_relay(cache, settings) as relay:
        await relay.run_once()
    assert not await is_valid(cache)
    assert not await noted(database)


async def test_a_relay_leaves_a_writer_its_time(
    cache: Cache, database: Database, settings: Settings, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(relay_module, "GRACE_SECONDS", 600)
    await remember(cache, "tag")
    await leave_behind(cache, database, "tag")
    async with open_relay(cache, settings) as relay:
        await relay.run_once()
    assert await noted(database) == [["tag"]]
    assert await is_valid(cache)


async def test_relays_at_once_do_everything(
    cache: Cache, database: Database, settings: Settings
) -> None:
    for number in range(20):
        await remember(cache, f"tag:{number}", key=f"key:{number}")
        await leave_behind(cache, database, f"tag:{number}")
    async with open_relay(cache, settings) as one, open_relay(cache, settings) as other:
        await asyncio.gather(one.run_once(), other.run_once())
    assert not await noted(database)
    assert not [n for n in range(20) if await is_valid(cache, f"key:{n}")]


async def test_a_turn_takes_as_many_tags_as_one_command(
    cache: Cache, database: Database, relay: Relay
) -> None:
    for row in range(5):
        tags = [f"tag:{row}:{number}" for number in range(TAGS_PER_COMMAND // 2)]
        await leave_behind(cache, database, *tags)
    assert [await relay.run_once() for _ in range(3)] == [True, True, False]
    assert not await noted(database)


async def test_a_row_with_more_tags_than_that_is_relayed_as_well(
    cache: Cache, database: Database, relay: Relay
) -> None:
    tags = [f"tag:{number}" for number in range(2 * TAGS_PER_COMMAND + 1)]
    await remember(cache, tags[-1])
    await leave_behind(cache, database, *tags)
    await relay.run_once()
    assert not await noted(database)
    assert not await is_valid(cache)


async def test_a_relay_that_fails_leaves_the_rows_to_the_next(
    cache: Cache, database: Database, relay: Relay, monkeypatch: pytest.MonkeyPatch
) -> None:
    await leave_behind(cache, database, "tag")
    await remember(cache, "tag")

    async def fail(self: Store, tags: Sequence[str]) -> None:
        raise ConnectionLost

    with monkeypatch.context() as patch:
        patch.setattr(Store, "invalidate", fail)
        await relay.run_once()
    assert await noted(database) == [["tag"]]
    assert await is_valid(cache)
    await relay.run_once()
    assert not await is_valid(cache)
    assert cache.trust.holds


async def test_a_bad_row_does_not_hold_up_the_others(
    cache: Cache, database: Database, relay: Relay
) -> None:
    for number in range(10):
        await remember(cache, f"tag:{number}", key=f"key:{number}")
        await leave_behind(cache, database, *([None] if number == 0 else []), f"tag:{number}")
    await relay.run_once()
    assert await noted(database) == [[None, "tag:0"]]
    assert [n for n in range(10) if await is_valid(cache, f"key:{n}")] == [0]
    assert not cache.trust.holds


async def test_what_was_never_invalidated_is_given_up_when_no_entry_can_be_so_old(
    cache: Cache,
    database: Database,
    settings: Settings,
    relay: Relay,
    caplog: pytest.LogCaptureFixture,
) -> None:
    await leave_behind(cache, database, None)
    await relay.run_once()
    assert not cache.trust.holds
    seconds = settings.cache.ttl_seconds + EXPIRY_MARGIN_SECONDS
    for age, is_kept in ((seconds - 30, True), (seconds + 1, False)):
        async with database.transaction() as session:
            await session.execute(MADE_OLDER, {"seconds": age})
        await relay.run_once()
        assert bool(await noted(database)) == is_kept
    assert [record.levelname for record in caplog.records if "Deleted 1" in record.message] == [
        "ERROR"
    ]
    await relay.run_once()
    assert cache.trust.holds


async def test_rows_of_another_namespace_are_left_alone(
    cache: Cache, database: Database, relay: Relay
) -> None:
    async with database.transaction() as session:
        await session.execute(OLD, {"tags": ["tag"], "namespace": "another"})
    await relay.run_once()
    assert await noted(database) == [["tag"]]
    assert cache.trust.holds


async def test_a_row_without_a_namespace_is_of_the_one_before_the_migration(
    cache: Cache, database: Database, settings: Settings
) -> None:
    async with database.transaction() as session:
        await session.execute(text("INSERT INTO cache_outbox (tags) VALUES ('{tag}')"))
    async with open_outbox(settings.database, "cache", "app") as outbox:
        assert [change.tags for change in (await outbox.poll()).changes] == [["tag"]]


async def test_a_row_from_the_future_is_old(
    cache: Cache, database: Database, relay: Relay, monkeypatch: pytest.MonkeyPatch
) -> None:
    await leave_behind(cache, database, None)
    async with database.transaction() as session:
        await session.execute(MADE_OLDER, {"seconds": -3_600})
    await relay.run_once()
    assert not cache.trust.holds


async def test_a_turn_does_not_wait_for_the_pool_of_the_requests(
    cache: Cache, database: Database, settings: Settings, relay: Relay
) -> None:
    await leave_behind(cache, database, "tag")
    async with AsyncExitStack() as stack:
        for _ in range(settings.database.pool_size):
            session = await stack.enter_async_context(database.transaction())
            await session.execute(text("SELECT 1"))
        await relay.run_once()
    assert not await noted(database)


# Valkey is away


@pytest.fixture
async def proxy(settings: Settings) -> AsyncIterator[Proxy]:
    """Stands before Valkey."""
    with socket.socket() as listener:
        listener.bind(("127.0.0.1", 0))
        port = listener.getsockname()[1]
    proxy = Proxy(settings.valkey.url.get_secret_value(), port)
    await proxy.start()
    yield proxy
    proxy.stop()


def through(proxy: Proxy, settings: Settings) -> Settings:
    values = {"url": SecretStr(proxy.url), "timeout_seconds": 5}
    return settings.model_copy(update={"valkey": settings.valkey.model_copy(update=values)})


async def test_a_write_succeeds_without_valkey_and_a_relay_does_it_later(
    service: FastAPI, client: Client, database: Database, settings: Settings, proxy: Proxy
) -> None:
    far = through(proxy, settings)
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
    far = through(proxy, settings)
    proxy.stop()
    async with running(far) as cut_off:
        async with cut_off.state.resources.database.transaction() as session:
            invalidate(session, "tag")
        assert not cache_of(cut_off).invalidation.completed_ids
    assert await is_valid(cache)
    async with with_relay(settings):
        await all_done(database)
    assert not await is_valid(cache)


async def test_an_invalidation_does_not_ask_the_breaker(cache: Cache, database: Database) -> None:
    await remember(cache, "tag")
    for _ in range(3):
        cache.store.breaker.failed(TimeoutError())
    cache.store.breaker._next_probe_at = float("inf")
    assert not cache.store.breaker.allows()
    async with database.transaction() as session:
        invalidate(session, "tag")
    assert cache.store.breaker.allows()
    assert not await is_valid(cache)
