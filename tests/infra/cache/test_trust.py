"""A Valkey that answers reads and refuses writes is not believed for longer than two seconds."""

import asyncio
import os
import time
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from typing import Any
from urllib.parse import urlsplit, urlunsplit

import httpx2
import pytest
from fastapi import FastAPI
from redis.asyncio import Redis
from redis.exceptions import ReadOnlyError
from sqlalchemy import text
from sqlalchemy.exc import SQLAlchemyError

from app.errors import Unavailable
from app.infra.database import engine
from app.settings import Settings
from coherent_cache import Cache
from coherent_cache import relay as relay_module
from coherent_cache import trust as trust_module
from coherent_cache.entry import Entry
from coherent_cache.memory import Memory
from coherent_cache.outbox import Outbox, Poll
from coherent_cache.relay import Relay
from coherent_cache.trust import Trust
from tests.application import client_of, running
from tests.cached_app import NO_CACHE, cache_of, patient_app, settled
from tests.coherent_cache.harness import Clock
from tests.factories import Factory
from tests.infra.cache.relays import open_outbox, relay_of

Client = httpx2.AsyncClient

REFUSALS = ("-@scripting", "-@write", "-publish")
AGE_ROWS = text("UPDATE cache_outbox SET created_at = created_at - interval '5 seconds'")
REFUSED = ReadOnlyError("You can't write against a read only replica.")


# The lease


@pytest.fixture
def clock(monkeypatch: pytest.MonkeyPatch) -> Clock:
    clock = Clock()
    monkeypatch.setattr(trust_module, "time", clock)
    monkeypatch.setattr(trust_module, "LEASE_SECONDS", 1.0)
    return clock


@pytest.fixture
def memory() -> Memory:
    return Memory(max_bytes=1_000_000, ttl_seconds=3_600)


@pytest.fixture
def trust(clock: Clock, memory: Memory) -> Trust:
    return Trust(memory)


def test_a_process_that_has_not_looked_trusts_nothing(trust: Trust, clock: Clock) -> None:
    assert not trust.holds
    trust.database_unavailable(clock.now)
    assert not trust.holds
    assert "no poll" in str(trust)


def test_trust_ends_by_itself_a_second_after_the_look_began(trust: Trust, clock: Clock) -> None:
    began = clock.now
    clock.now += 0.4
    trust.polled(began, behind_seconds=0)
    clock.now = began + 0.99
    assert trust.holds
    assert str(trust) == "trusted"
    clock.now = began + 1
    assert not trust.holds
    assert str(trust).startswith("distrusted: ")


def test_a_change_that_waits_for_longer_than_a_second_ends_it(trust: Trust, clock: Clock) -> None:
    trust.polled(clock.now, behind_seconds=1)
    assert trust.holds
    trust.polled(clock.now, behind_seconds=1.01)
    assert not trust.holds


def test_it_holds_while_the_database_is_silent(trust: Trust, clock: Clock) -> None:
    trust.polled(clock.now, behind_seconds=0)
    for _ in range(10):
        clock.now += 0.9
        trust.database_unavailable(clock.now)
        assert trust.holds


def test_silence_does_not_renew_a_lease_that_ended_during_the_look(
    trust: Trust, clock: Clock
) -> None:
    trust.polled(clock.now, behind_seconds=0)
    clock.now += 0.2
    began = clock.now
    clock.now += 10
    trust.database_unavailable(began)
    assert not trust.holds
    trust.database_unavailable(clock.now)
    assert trust.holds


def test_distrust_holds_while_the_database_is_silent(trust: Trust, clock: Clock) -> None:
    trust.polled(clock.now, behind_seconds=5)
    trust.database_unavailable(clock.now)
    assert not trust.holds


def test_it_does_not_hold_so_after_an_invalidation_failed(trust: Trust, clock: Clock) -> None:
    trust.polled(clock.now, behind_seconds=0)
    clock.now += 0.5
    trust.note_failure(REFUSED)
    assert trust.holds
    trust.database_unavailable(clock.now)
    assert not trust.holds


@pytest.mark.parametrize(("behind_seconds", "holds"), [(0.9, False), (0.2, True)])
def test_a_failure_counts_until_a_look_shows_that_somebody_made_up_for_it(
    trust: Trust, clock: Clock, behind_seconds: float, holds: bool
) -> None:
    trust.note_failure(REFUSED)
    clock.now += 0.5
    trust.polled(clock.now, behind_seconds)  # of a change before that failure, or of a later one
    trust.database_unavailable(clock.now)
    assert trust.holds is holds


def test_a_refused_write_ends_it_at_once(trust: Trust, clock: Clock) -> None:
    trust.polled(clock.now, behind_seconds=0)
    trust.polled(clock.now, behind_seconds=0, refusal=REFUSED)
    assert not trust.holds


@pytest.mark.parametrize("end", ["refused", "late"])
def test_the_memory_is_cleared_when_trust_returns(
    trust: Trust, clock: Clock, memory: Memory, end: str
) -> None:
    trust.polled(clock.now, behind_seconds=0)
    memory.put(Entry("key", ("tag",), b"value"), memory.begin_read())
    trust.polled(clock.now, behind_seconds=0)
    assert memory.get_copy("key") is not None
    if end == "refused":
        trust.withdraw("Valkey refuses writes", REFUSED)
    else:
        clock.now += 5
    trust.polled(clock.now, behind_seconds=0)
    assert memory.get_copy("key") is None


def test_only_a_lease_that_was_renewed_before_is_missed_with_a_warning(
    trust: Trust, clock: Clock, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level("INFO")
    levels = []
    for _ in range(2):
        trust.polled(clock.now, behind_seconds=0)
        clock.now += 2.7
        trust.polled(clock.now, behind_seconds=0)
        [record] = [record for record in caplog.records if "came late" in record.message]
        levels.append(record.levelname)
        caplog.clear()
    assert levels == ["INFO", "WARNING"]


def test_distrust_is_logged_once_and_names_the_error(
    trust: Trust, clock: Clock, caplog: pytest.LogCaptureFixture
) -> None:
    trust.polled(clock.now, behind_seconds=0)
    for _ in range(5):
        trust.polled(clock.now, behind_seconds=3, refusal=REFUSED)
    [warning] = [record for record in caplog.records if record.levelname == "WARNING"]
    assert "ReadOnlyError: You can't write against a read only replica." in warning.message
    trust.polled(clock.now, behind_seconds=0)
    trust.polled(clock.now, behind_seconds=3)
    assert len([record for record in caplog.records if record.levelname == "WARNING"]) == 2


def test_only_the_log_tells_what_an_error_says(
    trust: Trust, caplog: pytest.LogCaptureFixture
) -> None:
    trust.withdraw("of this test", TimeoutError("No answer from valkey.internal:6379\n[SQL: …]"))
    assert str(trust) == "distrusted: of this test (TimeoutError)"
    [warning] = [record.getMessage() for record in caplog.records]
    assert warning.endswith("of this test (TimeoutError: No answer from valkey.internal:6379)")


# A service whose user of Valkey loses permissions


class User:
    """A user of the Valkey of all tests, through which one application works."""

    def __init__(self, admin: Redis, name: str) -> None:
        self._admin, self._name = admin, name

    async def set(self, *rules: str) -> None:
        """Grant everything but what these rules take away."""
        every = ("reset", "on", ">password", "~*", "&*", "+@all", *rules)
        await self._admin.execute_command("ACL", "SETUSER", self._name, *every)  # type: ignore[no-untyped-call]


@pytest.fixture(scope="module")
async def user(worker_id: str) -> AsyncIterator[User]:
    name = f"trust_{worker_id}"
    async with Redis.from_url(os.environ["TEST_VALKEY_URL"]) as admin:
        yield User(admin, name)
        await admin.execute_command("ACL", "DELUSER", name)  # type: ignore[no-untyped-call]


@pytest.fixture(scope="module")
async def of_user(settings: Settings, user: User, worker_id: str) -> Settings:
    """The settings of an application that works through this user, in a namespace of its own."""
    await user.set()
    address = urlsplit(settings.valkey.url.get_secret_value())
    place = f"trust_{worker_id}:password@{address.hostname}:{address.port}"
    values = settings.model_dump()
    values["valkey"]["url"] = urlunsplit(address._replace(netloc=place))
    values["cache"]["namespace"] = f"trust_{worker_id}"
    return Settings.model_validate(values)


@pytest.fixture(scope="module")
async def service(of_user: Settings) -> AsyncIterator[FastAPI]:
    async with patient_app(of_user) as app:
        yield app


@pytest.fixture
async def cache(service: FastAPI, user: User, clean: None) -> AsyncIterator[Cache]:
    await user.set()
    cache = cache_of(service)
    cache.trust.polled(time.monotonic(), behind_seconds=0)
    await settled(service)
    yield cache
    await user.set()


@pytest.fixture
async def relay(cache: Cache, of_user: Settings) -> AsyncIterator[Relay]:
    """The relay of the service does not run: each turn is the test's."""
    async with open_outbox(of_user.database, of_user.cache.namespace, "app") as outbox:
        yield relay_of(cache, outbox, of_user)


@pytest.fixture
async def client(service: FastAPI, cache: Cache) -> AsyncIterator[Client]:
    async with client_of(service) as client:
        yield client


@pytest.fixture
def make(service: FastAPI, cache: Cache) -> Factory:
    return Factory(service.state.resources)


async def let_time_pass(service: FastAPI) -> None:
    """Let the changes that are not invalidated have waited for seconds."""
    async with service.state.resources.database.transaction() as session:
        await session.execute(AGE_ROWS)


@pytest.mark.parametrize("refusal", REFUSALS)
async def test_a_valkey_that_refuses_invalidations_is_not_believed(
    service: FastAPI,
    cache: Cache,
    client: Client,
    make: Factory,
    user: User,
    relay: Relay,
    refusal: str,
) -> None:
    author, doomed = await make.user(), await make.user(name="Doomed")
    post = await make.post(author)
    await relay.run_once()
    url, profile = f"/v1/posts/{post.id}", f"/v1/users/{doomed.id}"
    new = {"title": "T", "body": "B"}
    deleted = make.headers(doomed)
    for address in (url, profile):
        await client.get(address)
        assert (await client.get(address)).headers["x-cache"] == "HIT-L1"
    assert (await client.post("/v1/posts", json=new, headers=deleted)).status_code == 201

    await user.set(refusal)
    edit = await client.patch(url, json={"title": "New"}, headers=make.headers(author))
    assert edit.status_code == 200
    assert (await client.delete("/v1/users/me", headers=deleted)).status_code == 204
    await let_time_pass(service)
    await relay.run_once()

    for headers in ({}, NO_CACHE):
        shown = await client.get(url, headers=headers)
        assert (shown.json()["title"], shown.headers["x-cache"]) == ("New", "BYPASS")
    assert "Doomed" not in (await client.get(profile)).text
    assert (await client.post("/v1/posts", json=new, headers=deleted)).status_code == 401
    ready = await client.get("/readyz")
    assert ready.status_code == 200
    assert ready.json()["checks"]["cache"].startswith("distrusted: ")
    assert "Error" in ready.json()["checks"]["cache"]

    await user.set()
    await relay.run_once()
    assert (await client.get("/readyz")).json()["checks"]["cache"] == "trusted"
    assert (await client.get(url)).json()["title"] == "New"
    assert "Doomed" not in (await client.get(profile)).text
    assert (await client.post("/v1/posts", json=new, headers=deleted)).status_code == 401
    assert (await client.get(url)).headers["x-cache"] == "HIT-L1"


async def test_a_write_is_tried_at_each_look(
    service: FastAPI, cache: Cache, relay: Relay, user: User
) -> None:
    await user.set("-@write")
    await relay.run_once()
    assert not cache.trust.holds
    await user.set()
    await relay.run_once()
    assert cache.trust.holds


async def test_a_try_leaves_nothing_in_valkey(cache: Cache, relay: Relay) -> None:
    await cache.flush()
    await relay.run_once()
    assert not [key async for key in cache.store._valkey.scan_iter(f"{cache.store.prefix}*")]


async def test_reads_of_one_key_share_a_load_while_nothing_is_trusted(cache: Cache) -> None:
    cache.trust.withdraw("of this test")
    loads = 0

    async def load() -> Entry:
        nonlocal loads
        loads += 1
        await asyncio.sleep(0)
        return Entry("key", ("tag",), b"value")

    answers = await asyncio.gather(*(cache.reader.read("key", load) for _ in range(50)))
    assert {answer.source for answer in answers} == {"BYPASS"}
    assert loads == 1


# The connection


async def test_looks_that_wait_for_a_lock_take_one_connection(
    of_user: Settings, cache: Cache, service: FastAPI, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(engine, "OUTBOX_COMMAND_SECONDS", 3.0)  # this machine may be busy
    patient = {"statement_timeout_seconds": 60, "lock_timeout_seconds": 60}
    name, backends = f"looks-{os.getpid()}", set()
    found = text("SELECT pid FROM pg_stat_activity WHERE application_name = :name")
    async with (
        open_outbox(of_user.database.model_copy(update=patient), "of this test", name) as outbox,
        service.state.resources.database.transaction() as session,
        service.state.resources.database.read() as observer,
    ):
        await session.execute(text("LOCK TABLE cache_outbox IN ACCESS EXCLUSIVE MODE"))
        for _ in range(2):
            with pytest.raises((SQLAlchemyError, Unavailable)) as caught:
                await outbox.poll()
            assert relay_module._is_unavailable(caught.value)
            backends.update(await observer.scalars(found, {"name": name}))
    assert len(backends) == 1


# The loop


class Table(Outbox):
    """An outbox whose database can be silent or slow."""

    def __init__(self) -> None:
        self.look_of: Callable[[], Any] = self.empty
        self.looks = 0

    async def empty(self) -> Poll:
        return Poll(time.monotonic(), [])

    async def poll(self) -> Poll:
        self.looks += 1
        poll: Poll = await self.look_of()
        return poll


async def refuse() -> Poll:
    raise Unavailable("The database cannot be reached.")


@pytest.fixture
def table() -> Table:
    return Table()


@pytest.fixture
def of_table(cache: Cache, table: Table, of_user: Settings) -> Relay:
    return relay_of(cache, table, of_user)


async def test_a_look_that_fails_leaves_the_verdict(
    cache: Cache, table: Table, of_table: Relay
) -> None:
    table.look_of = refuse
    await of_table.run_once()
    assert cache.trust.holds
    cache.trust.withdraw("of this test")
    await of_table.run_once()
    assert not cache.trust.holds


async def test_a_refused_write_counts_though_the_database_is_silent(
    cache: Cache, table: Table, of_table: Relay, user: User
) -> None:
    table.look_of = refuse
    await user.set("-@write")
    await of_table.run_once()
    assert not cache.trust.holds


async def test_trust_is_renewed_while_a_look_waits_for_its_connection(
    cache: Cache, table: Table, of_table: Relay, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(relay_module, "SLOW_POLL_SECONDS", 0.001)
    renewed = asyncio.Event()
    monkeypatch.setattr(cache.trust, "database_unavailable", lambda _began: renewed.set())
    connected = asyncio.Event()

    async def connect() -> Poll:
        await connected.wait()
        return Poll(time.monotonic(), [])

    table.look_of = connect
    turn = asyncio.create_task(of_table.run_once())
    await renewed.wait()
    assert not turn.done()
    connected.set()
    await turn


@pytest.mark.parametrize("timed_out", [True, False])
async def test_a_process_that_was_stopped_during_a_look_trusts_nothing(
    cache: Cache,
    table: Table,
    of_table: Relay,
    clock: Clock,
    monkeypatch: pytest.MonkeyPatch,
    timed_out: bool,
) -> None:
    monkeypatch.setattr(relay_module, "time", clock)
    monkeypatch.setattr(relay_module, "SLOW_POLL_SECONDS", 0.001)
    cache.trust.polled(clock.now, behind_seconds=0)
    was_trusted = []

    async def stop() -> Poll:
        began = clock.now
        clock.now += 10
        await asyncio.sleep(0.05)  # the timer for a silent database fires meanwhile
        was_trusted.append(cache.trust.holds)
        if timed_out:
            raise Unavailable("The database did not answer in time.")
        return Poll(began, [])

    table.look_of = stop
    await of_table.run_once()
    assert was_trusted == [False]
    assert not cache.trust.holds
    table.look_of = refuse
    await of_table.run_once()
    assert cache.trust.holds


async def test_a_relay_that_is_cancelled_ends(table: Table, of_table: Relay) -> None:
    looking = asyncio.Event()

    async def never() -> Poll:
        looking.set()
        await asyncio.Event().wait()
        raise AssertionError

    table.look_of = never
    turn = asyncio.create_task(of_table.run_once())
    await looking.wait()
    turn.cancel()
    with pytest.raises(asyncio.CancelledError):
        await turn


# Start-up


@asynccontextmanager
async def without_database(settings: Settings) -> AsyncIterator[FastAPI]:
    values = settings.model_dump()
    values["database"] = {"url": "postgresql://a:b@127.0.0.1:1/x"}
    async with running(Settings.model_validate(values)) as app:
        yield app


async def test_the_first_request_finds_the_cache_trusted(settings: Settings) -> None:
    async with running(settings) as app:
        assert cache_of(app).trust.holds


async def test_a_process_starts_without_its_database_and_trusts_nothing(
    settings: Settings,
) -> None:
    async with without_database(settings) as app:
        assert not cache_of(app).trust.holds
