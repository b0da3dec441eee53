"""The log has no room, or no reader: no request waits or fails, and lost lines are counted."""

import asyncio
import os
from collections import Counter
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path
from typing import IO

import httpx2
import pytest

from app.infra.observability.log_writer import MAX_WAITING, WRITE_INTERVAL_SECONDS
from tests.faults.conftest import Judge, Serve
from tests.faults.counters import Counters
from tests.faults.load import NO_ANSWER, late
from tests.faults.service import WORKERS, Service
from tests.faults.verdicts import GUARDED
from tests.faults.wire import Reply, Wire

pytestmark = pytest.mark.faults

CONNECTIONS, PATIENCE_SECONDS, SLOWEST_SECONDS = 8, 5.0, 1.0
DROPPED = "log_lines_dropped_total"

Ends = tuple[IO[bytes], IO[bytes]]


def full_disk() -> Ends:
    """Return a log file on a full disk. Nothing is at its other end."""
    return Path(os.devnull).open("rb"), Path("/dev/full").open("wb", buffering=0)


def stalled_pipe() -> Ends:
    """Return a pipe that nobody reads."""
    reader, writer = os.pipe()
    return os.fdopen(reader, "rb"), os.fdopen(writer, "wb", buffering=0)


# How many requests to send, and how many lines are lost at least: all of them, or those that find
# the queue full.
CASES: dict[str, tuple[Callable[[], Ends], int, int]] = {
    "The disk of the log is full": (full_disk, 4_000, 4_000),
    "Nobody reads the log": (stalled_pipe, WORKERS * MAX_WAITING + 8_000, 4_000),
}


async def ask(service: Service, times: int) -> list[Reply]:
    """Send requests on several connections. Each stops when it gets no response."""
    replies: list[Reply] = []

    async def ask_on(wire: Wire) -> None:
        for _ in range(times // CONNECTIONS):
            replies.append(await wire.get("/v1/posts"))
            if replies[-1].status == NO_ANSWER:
                break
        wire.close()

    wires = [Wire(service.address, PATIENCE_SECONDS) for _ in range(CONNECTIONS)]
    await asyncio.gather(*map(ask_on, wires))
    return replies


async def dropped(service: Service) -> int:
    """Return how many lines were dropped, or 0 if no worker responds."""
    await asyncio.sleep(5 * WRITE_INTERVAL_SECONDS)
    async with httpx2.AsyncClient(base_url=service.address.url, timeout=PATIENCE_SECONDS) as client:
        with suppress(httpx2.TransportError):
            return int((await Counters(client).scrape())[DROPPED])
    return 0


@pytest.mark.parametrize("control", [GUARDED, "with blocking log writes"])
@pytest.mark.parametrize("case", CASES)
async def test_requests_do_not_wait_for_the_reader_of_the_log(
    serve: Serve, judge: Judge, case: str, control: str
) -> None:
    make, times, least = CASES[case]
    reader, writer = make()
    with writer:
        async with serve(control, output=writer) as service:
            # The reader is closed before the service exits. A blocked control could not exit.
            with reader:
                replies = await ask(service, times)
                lost = await dropped(service)
    statuses = Counter(reply.status for reply in replies)
    slowest = max(reply.seconds for reply in replies)
    broken = [f"{statuses[NO_ANSWER]} × no response"] * bool(statuses[NO_ANSWER])
    broken += [f"unexpected statuses {set(statuses)}"] * bool(set(statuses) - {200, NO_ANSWER})
    broken += late("a response came", slowest, SLOWEST_SECONDS)
    broken += [f"only {lost} dropped log lines counted"] * (lost < least)
    figure = (
        f"{len(replies)} requests served, the slowest in {slowest:.2f} s; {lost} dropped log lines "
        "counted"
    )
    judge(case, control, figure, broken)
