"""Valkey answers reads and refuses writes; and Valkey works while the database is busy."""

import asyncio
import shutil
import time
from collections.abc import AsyncIterator, Callable, Coroutine, Iterator, Sequence
from contextlib import asynccontextmanager, suppress
from dataclasses import dataclass, field
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import httpx2
import pytest

from app.infra.database.settings import DatabaseSettings
from tests.faults.author import sign_up
from tests.faults.conftest import Judge, Serve
from tests.faults.history import end, run_history
from tests.faults.load import Answer, constantly, late, register, timed
from tests.faults.postgres import Backend
from tests.faults.service import WORKERS, Service
from tests.faults.valkey import Valkey, open_own_valkey
from tests.faults.verdicts import GUARDED
from tests.faults.wire import Wire

pytestmark = pytest.mark.faults
BOUND_SECONDS = 2.0
BEFORE, REFUSING, REFUSING_CONTROL, AFTER = 3.0, 12.0, 6.0, 5.0
SAVES = "saves"
MAKE_ADMIN = "UPDATE users SET role = 'admin', verified = true WHERE email = '{}'"

Step = Callable[[Valkey], Coroutine[Any, Any, None]]


@pytest.fixture(scope="module")
def valkey() -> Iterator[Valkey]:
    """A Valkey that saves to a folder of its own, which a case can remove."""
    with TemporaryDirectory() as folder:
        saves = Path(folder) / SAVES
        saves.mkdir()
        with open_own_valkey(Path(folder), more=f"dir {saves}\n") as valkey:
            yield valkey


# How Valkey refuses, and the repair


async def become_a_replica(valkey: Valkey) -> None:
    await valkey.ask("REPLICAOF", "127.0.0.1", "1")


async def become_a_primary(valkey: Valkey) -> None:
    await valkey.ask("REPLICAOF", "NO", "ONE")


async def fail_to_save(valkey: Valkey) -> None:
    """Remove the folder to which Valkey saves."""
    [folder] = (await valkey.ask("CONFIG", "GET", "dir")).values()
    if folder:
        shutil.rmtree(folder, ignore_errors=True)
    await valkey.ask("CONFIG", "SET", "save", "3600 1")
    await valkey.ask("BGSAVE")
    while (await valkey.ask("INFO", "persistence"))["rdb_last_bgsave_status"] == "ok":
        await asyncio.sleep(0.01)


async def do_not_save(valkey: Valkey) -> None:
    await valkey.ask("CONFIG", "SET", "save", "")


async def miss_a_replica(valkey: Valkey) -> None:
    await valkey.ask("CONFIG", "SET", "min-replicas-to-write", "1")


async def miss_no_replica(valkey: Valkey) -> None:
    await valkey.ask("CONFIG", "SET", "min-replicas-to-write", "0")


async def deny_scripts(valkey: Valkey) -> None:
    await valkey.ask("ACL", "SETUSER", "default", "-@scripting")


async def allow_scripts(valkey: Valkey) -> None:
    await valkey.ask("ACL", "SETUSER", "default", "+@all")


REFUSALS: dict[str, tuple[Step, Step]] = {
    "READONLY": (become_a_replica, become_a_primary),
    "NOREPLICAS": (miss_a_replica, miss_no_replica),
    "NOPERM": (deny_scripts, allow_scripts),
    "MISCONF": (fail_to_save, do_not_save),
}


@dataclass
class Ending:
    """An account that ends while Valkey refuses writes. This one is deleted by its owner."""

    service: Service
    accepted_for: float = 0.0
    shown_for: float = 0.0
    headers: dict[str, str] = field(default_factory=dict)
    profile: str = ""

    async def sign_up(self) -> None:
        """Register, and let every worker cache the account."""
        _, self.headers = await register(self.service.client)
        shown = await self.service.client.patch(
            "/v1/users/me", json={"name": "Doomed"}, headers=self.headers
        )
        self.profile = f"/v1/users/{shown.json()['id']}"
        for _ in range(20):
            await self._use()

    async def end_and_use(self) -> None:
        """End the account, and continue to use it."""
        ended = await self._end()
        assert ended.is_success, ended.text
        ended_at = time.monotonic()
        while True:
            asked_after = time.monotonic() - ended_at
            accepted, shown = await self._use()
            self.accepted_for = max(self.accepted_for, asked_after * accepted)
            self.shown_for = max(self.shown_for, asked_after * shown)
            await asyncio.sleep(0.02)

    async def _end(self) -> httpx2.Response:
        return await self.service.client.delete("/v1/users/me", headers=self.headers)

    async def _use(self) -> tuple[bool, bool]:
        """Edit a post that does not exist: 404 if the caller is accepted, 401 if not."""
        wire = Wire(self.service.address)  # a new connection may reach any worker
        try:
            path, edit = "/v1/posts/999999999", {"title": "T"}
            edited = await wire.write("PATCH", path, self.headers, edit)
            profile = await wire.get(self.profile)
        finally:
            wire.close()
        return edited.status == 404, b"Doomed" in profile.body


@dataclass
class Disabling(Ending):
    """An administrator disables this account. Its profile is still shown."""

    admin: dict[str, str] = field(default_factory=dict)

    async def appoint_admin(self, backend: Backend) -> None:
        email, self.admin = await register(self.service.client)
        await backend.rows(MAKE_ADMIN.format(email))  # no worker has cached the account yet

    async def _end(self) -> httpx2.Response:
        path = self.profile.replace("/v1/", "/v1/admin/")
        return await self.service.client.patch(path, json={"disabled": True}, headers=self.admin)


@dataclass
class Refusal:
    """Valkey refuses writes for a while. After that, every worker must trust the cache again."""

    service: Service
    valkey: Valkey
    endings: Sequence[Ending]
    seconds: float
    trusted_after: float = float("inf")

    @asynccontextmanager
    async def meanwhile(self, refuse: Step, cure: Step) -> AsyncIterator[None]:
        """Run this beside a history."""
        task = asyncio.create_task(self._run(refuse, cure))
        try:
            yield
        finally:
            await end([task])

    async def _run(self, refuse: Step, cure: Step) -> None:
        await asyncio.sleep(BEFORE)
        await refuse(self.valkey)
        using = [asyncio.create_task(ending.end_and_use()) for ending in self.endings]
        try:
            await asyncio.sleep(self.seconds)
        finally:
            await cure(self.valkey)
            cured_at = time.monotonic()
            await end(using)
        while await distrusting(self.service):
            await asyncio.sleep(0.05)
        self.trusted_after = time.monotonic() - cured_at


async def distrusting(service: Service) -> list[str]:
    """Return the reasons of the workers that do not trust the cache."""
    said: dict[int, str] = {}
    while len(said) < service.workers:
        wire = Wire(service.address)
        try:
            worker = (await wire.get("/faults/vitals")).json()
        finally:
            wire.close()
        said[worker["process_id"]] = worker["cache"]
    return [cache for cache in said.values() if cache != "trusted"]


@pytest.mark.parametrize("control", [GUARDED, "with a cache that is always trusted"])
@pytest.mark.parametrize("error", REFUSALS)
async def test_valkey_answers_reads_and_refuses_writes(
    backend: Backend, valkey: Valkey, serve_cached: Serve, judge: Judge, error: str, control: str
) -> None:
    refusing = REFUSING if control == GUARDED else REFUSING_CONTROL
    async with serve_cached(control) as service:
        deletion, disabling = Ending(service), Disabling(service)
        await deletion.sign_up()
        await disabling.sign_up()
        await disabling.appoint_admin(backend)
        refusal = Refusal(service, valkey, (deletion, disabling), refusing)
        fault = refusal.meanwhile(*REFUSALS[error])
        history = await run_history(service, backend, BEFORE + refusing + AFTER, fault)
    stale = [*history.stale(in_memory=True), *history.stale(in_memory=False)]
    oldest = max((found.age for found in stale), default=0.0)
    gone = max(deletion.accepted_for, deletion.shown_for)
    broken = [
        *late("a read was stale", oldest, BOUND_SECONDS),
        *late("a deleted account was accepted or shown", gone, BOUND_SECONDS),
        *late("a disabled account was accepted", disabling.accepted_for, BOUND_SECONDS),
        *late("the cache was trusted again", refusal.trusted_after, BOUND_SECONDS),
    ]
    figure = (
        f"{history.acknowledged} writes; {len(stale)} of {history.seen.total} reads stale, by at "
        f"most {oldest:.2f} s; a deleted account was accepted for {deletion.accepted_for:.2f} s "
        f"and shown for {deletion.shown_for:.2f} s, a disabled one was accepted for "
        f"{disabling.accepted_for:.2f} s; cache trusted {refusal.trusted_after:.2f} s after the "
        "repair"
    )
    judge(f"Valkey answers reads and refuses writes: {error}", control, figure, broken)


# A busy database, and an invalidation that always fails

BUSY_SECONDS, HOLD_SECONDS = 15.0, 0.4
SATURATION = 4
LEFT = (
    "INSERT INTO cache_outbox (tags, created_at) "
    "VALUES ('{left:behind}', clock_timestamp()) RETURNING id"
)
# An entry lives for a second in this case, so a row is deleted after 61 s.
BRIEF = {"ttl_seconds": 1, "missing_ttl_seconds": 1}
LIFE_OF_A_ROW_SECONDS, NEXT_LOOK_FOR_SUCH_ROWS_SECONDS = 61.0, 5.0
POISON_LIVES_SECONDS = 6.0
POISON = (
    "INSERT INTO cache_outbox (tags, created_at) VALUES ('{NULL}', clock_timestamp() "
    f"- interval '{LIFE_OF_A_ROW_SECONDS - POISON_LIVES_SECONDS} seconds') RETURNING id"
)


@dataclass
class Watch:
    """Whether the workers trust the cache, and how long rows wait in the outbox."""

    service: Service
    backend: Backend
    seen: list[bool] = field(default_factory=list)
    waits: list[float] = field(default_factory=list)

    @property
    def distrusted(self) -> int:
        """How often the cache was found distrusted."""
        return sum(self.seen)

    async def look(self) -> None:
        """Ask the workers again and again."""
        while True:
            self.seen.append(bool(await distrusting(self.service)))
            await asyncio.sleep(0.1)

    async def leave_rows(self) -> None:
        """Insert a row and wait until a relay has deleted it, again and again."""
        while True:
            [[row]] = await self.backend.rows(LEFT)
            left_at = time.monotonic()
            self.waits.append(0.0)
            while await is_there(self.backend, row):
                self.waits[-1] = time.monotonic() - left_at
                await asyncio.sleep(0.05)


async def is_there(backend: Backend, row: int) -> bool:
    """Return whether a row of the outbox has not been deleted yet."""
    return bool(await backend.rows(f"SELECT 1 FROM cache_outbox WHERE id = {row}"))


@asynccontextmanager
async def saturated(service: Service) -> AsyncIterator[None]:
    """Keep SATURATION times as many clients waiting as the pools have connections."""

    async def hold() -> None:
        while True:
            await timed(service.client, "GET", f"/faults/hold/{HOLD_SECONDS}")

    clients = SATURATION * DatabaseSettings().pool_size * WORKERS
    tasks = [asyncio.create_task(hold()) for _ in range(clients)]
    try:
        yield
    finally:
        await end(tasks)


@pytest.mark.parametrize(
    "control", [GUARDED, "with the relay in the connection pool of the requests"]
)
async def test_a_busy_pool_does_not_end_the_trust(
    backend: Backend, serve_cached: Serve, judge: Judge, control: str
) -> None:
    answers: list[Answer] = []
    async with serve_cached(control, cache=BRIEF) as service:
        author = await sign_up(service.client)
        busy, calm = Watch(service, backend), Watch(service, backend)
        tasks = [asyncio.create_task(work) for work in (busy.look(), busy.leave_rows())]
        async with saturated(service), constantly(10, lambda _: author.write(), answers):
            await asyncio.sleep(BUSY_SECONDS)
            await end(tasks)
        poisoned_at = time.monotonic()
        [[poison]] = await backend.rows(POISON)
        tasks = [asyncio.create_task(calm.leave_rows())]
        with suppress(TimeoutError):
            async with asyncio.timeout(BOUND_SECONDS):
                while not await distrusting(service):
                    await asyncio.sleep(0.02)
        distrusted_after = time.monotonic() - poisoned_at
        while await is_there(backend, poison):
            await asyncio.sleep(0.05)
        lived = time.monotonic() - poisoned_at
        await end(tasks)
        deleted_at = time.monotonic()
        while await distrusting(service) and time.monotonic() < deleted_at + 3 * BOUND_SECONDS:
            await asyncio.sleep(0.02)
        trusted_after = time.monotonic() - deleted_at
    longest_life = POISON_LIVES_SECONDS + NEXT_LOOK_FOR_SUCH_ROWS_SECONDS + 1
    broken = [
        *[f"cache distrusted in {busy.distrusted} of {len(busy.seen)} checks"]
        * bool(busy.distrusted),
        *late("an invalidation of a dead writer was repeated", max(busy.waits), BOUND_SECONDS),
        *late("the cache was distrusted", distrusted_after, BOUND_SECONDS),
        *late("another invalidation was repeated", max(calm.waits), BOUND_SECONDS),
        *late("the failing row was deleted", lived, longest_life),
        *late("the cache was trusted again", trusted_after, BOUND_SECONDS),
    ]
    figure = (
        f"pool full: cache distrusted in {busy.distrusted} of {len(busy.seen)} checks, "
        f"{len(busy.waits)} lost invalidations repeated within {max(busy.waits):.2f} s. One "
        f"invalidation always fails: cache distrusted after {distrusted_after:.2f} s, "
        f"{len(calm.waits)} others repeated within {max(calm.waits):.2f} s, its row deleted after "
        f"{lived:.1f} s, cache trusted {trusted_after:.2f} s later"
    )
    judge(
        "The connection pool is full, then one invalidation always fails", control, figure, broken
    )
