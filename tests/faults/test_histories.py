"""The promise of the cache: a read shows at least what was acknowledged before the read began.

Two cores serve no more than about 2,000 reads a second, so the controls fail in a few seconds.
"""

import asyncio
import os
import random
import signal
import time
from collections.abc import AsyncIterator, Callable
from contextlib import AbstractAsyncContextManager, asynccontextmanager, nullcontext, suppress

import pytest

from tests.faults.author import sign_up
from tests.faults.conftest import Judge, Serve
from tests.faults.history import MEMORY_SECONDS, repeated, run_history
from tests.faults.load import late, timed
from tests.faults.postgres import Backend
from tests.faults.service import Service
from tests.faults.valkey import Valkey
from tests.faults.verdicts import GUARDED
from tests.faults.wire import Wire

pytestmark = pytest.mark.faults
SECONDS, CONTROL_SECONDS = 12.0, 8.0
CRASH_SECONDS = 2.0  # until the change of a dead writer is visible
CONTROLS = [GUARDED, "with an ordinary cache"]
MOST_ROOM = 130_000  # bytes for the cache, so that keys are evicted all the time

# A worker that continues after a suspension may read a request before the invalidation message. Its
# memory may be used for no longer than that of a worker whose channel is half-open.
STOPPED, STOPPED_SECONDS = "A worker is suspended for 1 s, repeatedly", 1.5

Disturbance = Callable[[Service, Valkey], AbstractAsyncContextManager[None]]


def subscribers_cut(_service: Service, valkey: Valkey) -> AbstractAsyncContextManager[None]:
    """Cut the channel connection of every worker."""
    return repeated(lambda: valkey.ask("CLIENT", "KILL", "TYPE", "pubsub"), 0.7)


def emptied(_service: Service, valkey: Valkey) -> AbstractAsyncContextManager[None]:
    return repeated(lambda: valkey.ask("FLUSHALL"), 0.5)


def restarted(_service: Service, valkey: Valkey) -> AbstractAsyncContextManager[None]:
    """Kill Valkey, and start it again, empty, half a second later."""

    async def restart() -> None:
        valkey.kill()
        await asyncio.sleep(0.5)
        valkey.start_again()
        await valkey.returned()

    return repeated(restart, 2)


def stopped(service: Service, _valkey: Valkey) -> AbstractAsyncContextManager[None]:
    """Suspend a worker for a second."""

    async def stop() -> None:
        process_id = await _some_worker(service)
        os.kill(process_id, signal.SIGSTOP)
        await asyncio.sleep(1)
        os.kill(process_id, signal.SIGCONT)

    return repeated(stop, 1.5)


def killed(service: Service, _valkey: Valkey) -> AbstractAsyncContextManager[None]:
    """Kill a worker. Gunicorn starts another one."""

    async def kill() -> None:
        with suppress(ProcessLookupError):
            os.kill(await _some_worker(service), signal.SIGKILL)

    return repeated(kill, 2)


@asynccontextmanager
async def crowded(_service: Service, valkey: Valkey) -> AsyncIterator[None]:
    """Leave so little memory that entries, tokens and the log are evicted all the time."""
    used = int((await valkey.ask("INFO", "memory"))["used_memory"])
    await valkey.ask("CONFIG", "SET", "maxmemory", str(used + MOST_ROOM))
    yield
    assert (await valkey.ask("INFO", "stats"))["evicted_keys"] > 100


async def _some_worker(service: Service) -> int:
    workers = await service.each_worker("/faults/vitals")
    return int(random.choice(workers)["process_id"])


DISTURBANCES: dict[str, Disturbance] = {
    "The workers' channel connections are cut every 0.7 s": subscribers_cut,
    "Valkey is flushed every 0.5 s": emptied,
    "Valkey is killed every 2.5 s": restarted,
    "Valkey evicts keys all the time": crowded,
    "A worker is killed every 2 s": killed,
    STOPPED: stopped,
}


def seconds_of(control: str, seconds: float = SECONDS) -> float:
    """Return a shorter time for a control, because it fails sooner."""
    return seconds if control == GUARDED else CONTROL_SECONDS


@pytest.mark.parametrize("control", CONTROLS)
async def test_no_read_shows_less_than_was_acknowledged(
    backend: Backend, serve_cached: Serve, judge: Judge, control: str
) -> None:
    async with serve_cached(control, trouble="slow_fills", workers=3) as service:
        history = await run_history(service, backend, seconds_of(control, 60), nullcontext())
    few = [f"only {history.seen.total} reads"] * (
        history.seen.total < 100_000 and control == GUARDED
    )
    judge("Many reads and writes, nothing fails", control, history.figure, history.broken() + few)


@pytest.mark.parametrize("control", CONTROLS)
@pytest.mark.parametrize("case", DISTURBANCES)
async def test_reads_stay_coherent_while_something_breaks_repeatedly(
    backend: Backend, valkey: Valkey, serve_cached: Serve, judge: Judge, case: str, control: str
) -> None:
    async with serve_cached(control, trouble="slow_fills") as service:
        fault = DISTURBANCES[case](service, valkey)
        history = await run_history(service, backend, seconds_of(control), fault)
    longest = STOPPED_SECONDS if case == STOPPED else MEMORY_SECONDS
    judge(case, control, history.figure, history.broken(longest))


@pytest.mark.parametrize("control", CONTROLS)
async def test_valkey_is_frozen_and_thawed(
    backend: Backend, valkey: Valkey, serve_cached: Serve, judge: Judge, control: str
) -> None:
    thawed_at: list[float] = []

    async def freeze() -> None:
        if thawed_at:
            return
        valkey.freeze()
        await asyncio.sleep(10)
        valkey.thaw()
        thawed_at.append(time.monotonic())

    async with serve_cached(control, trouble="slow_fills") as service:
        history = await run_history(service, backend, 18, repeated(freeze, 2))
    [thawed] = thawed_at
    past, memory = (
        [found for found in history.stale(in_memory=tier) if not 0 <= found.at - thawed <= 2]
        for tier in (False, True)
    )
    oldest = max((found.age for found in memory), default=0.0)
    broken = [f"{len(past)} reads through Valkey were stale"] * bool(past)
    broken += [f"a read from memory was stale by {oldest:.2f} s"] * (oldest > STOPPED_SECONDS)
    figure = (
        f"{history.figure}; except in the 2 s after Valkey returned: {len(past)} stale reads "
        f"through Valkey, and reads from memory stale by at most {oldest:.2f} s"
    )
    judge("Valkey stops answering for 10 s during many reads and writes", control, figure, broken)


@pytest.mark.parametrize("control", [GUARDED, "without the relay of lost invalidations"])
async def test_a_write_whose_worker_dies_after_the_commit_is_seen_soon(
    serve_cached: Serve, judge: Judge, control: str
) -> None:
    waits = []
    async with serve_cached(control, trouble="crashes") as service:
        for _ in range(5):
            author = await sign_up(service.client)
            wire = Wire(service.address)
            await wire.get(author.post, skip_memory=True)
            edit = {"json": {"title": "last words"}, "headers": author.headers}
            answer = await timed(service.client, "PATCH", author.post, **edit)
            assert answer.status == 0, "the worker lives"
            waits.append(await seconds_until_seen(wire, author.post, b"last words"))
    figure = f"5 edits, each visible within {max(waits):.2f} s"
    broken = late("an edit was visible", max(waits), CRASH_SECONDS)
    judge("A worker is killed between the commit and the invalidation", control, figure, broken)


async def seconds_until_seen(wire: Wire, path: str, text: bytes) -> float:
    """Read through Valkey until the text is visible, or give up after a while."""
    began = time.monotonic()
    while (waited := time.monotonic() - began) < 3 * CRASH_SECONDS:
        if text in (await wire.get(path, skip_memory=True)).body:
            break
        await asyncio.sleep(0.01)
    return waited


@pytest.mark.parametrize("control", CONTROLS)
async def test_what_is_rolled_back_is_never_seen(
    backend: Backend, serve_cached: Serve, judge: Judge, control: str
) -> None:
    async with serve_cached(control, trouble="failures") as service:
        history = await run_history(service, backend, seconds_of(control), nullcontext())
    undone = sum(writer.refused for writer in history.writers)
    assert undone
    figure = f"{undone} transactions rolled back; {history.figure}"
    judge(
        "Transactions are rolled back after their tags were stored",
        control,
        figure,
        history.broken(),
    )
