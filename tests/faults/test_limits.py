"""Clients send too much, too slowly, or too often: other clients are served as before."""

import asyncio
import time
from collections import Counter
from collections.abc import Sequence

import pytest

from app.infra.server.settings import ServerSettings
from app.infra.web.settings import LimitsSettings
from dev.address import Address
from tests.faults.conftest import Judge, Serve
from tests.faults.load import outcome, register
from tests.faults.pauses import Pauses
from tests.faults.rude import CUT_OFF, LONG_FIELD, MANY_FIELDS, SLOW_BODY, SLOW_HEAD, Manner, crowd
from tests.faults.service import Service
from tests.faults.verdicts import GUARDED
from tests.faults.wire import Reply, Wire

pytestmark = pytest.mark.faults
LIMITS, SERVER = LimitsSettings(), ServerSettings()
CROWD, BACK_AFTER_SECONDS = 200, 5
GOOD_RATE = 50
BASELINE_SECONDS, FLOOD_SECONDS = 20, 25
WORST_RATIO = 1.5
# How long responses take on shared cores after the deadline.
MARGIN_SECONDS = 1.0


class Load:
    """GET requests at a constant rate, each on a connection that no other request uses."""

    def __init__(self, address: Address, path: str, headers: dict[str, str]) -> None:
        self._address, self._path, self._headers = address, path, headers
        self._free: list[Wire] = []
        self.replies: list[Reply] = []

    async def connect(self, number: int) -> None:
        """Open this number of connections, as a proxy does."""
        await asyncio.gather(*(self._ask() for _ in range(number)))

    async def run(self, rate: float, seconds: float) -> list[Reply]:
        """Send at this rate for some seconds, and return the replies."""
        self.replies = []
        loop, pauses = asyncio.get_running_loop(), Pauses()
        began = loop.time()
        async with pauses.watched(), asyncio.TaskGroup() as group:
            for number in range(int(rate * seconds)):
                await asyncio.sleep(began + number / rate - loop.time())
                group.create_task(self._ask())
        return [pauses.without(reply) for reply in self.replies]

    async def saturate(self, clients: int, seconds: float) -> float:
        """Return the requests served per second when each client sends again at once."""
        self.replies = []
        ends_at = time.monotonic() + seconds

        async def ask_again() -> None:
            while time.monotonic() < ends_at:
                await self._ask()

        await asyncio.gather(*(ask_again() for _ in range(clients)))
        return len(self.replies) / seconds

    def close(self) -> None:
        for wire in self._free:
            wire.close()

    async def _ask(self) -> None:
        wire = self._free.pop() if self._free else Wire(self._address)
        self.replies.append(await wire.write("GET", self._path, self._headers))
        self._free.append(wire)


def share(replies: Sequence[Reply], part: float) -> float:
    """Return this percentile of the times in seconds."""
    times = sorted(reply.seconds for reply in replies)
    return times[int(len(times) * part)] if times else 0.0


def not_served(replies: Sequence[Reply]) -> list[str]:
    wrong = Counter(reply.status for reply in replies if reply.status != 200)
    return [f"{times} × {outcome(status)}" for status, times in sorted(wrong.items())]


@pytest.mark.parametrize("control", [GUARDED, "with Uvicorn's own HTTP protocol"])
@pytest.mark.parametrize(
    ("case", "manners", "seconds", "statuses"),
    [
        ("200 clients send heads that are too large", (MANY_FIELDS, LONG_FIELD), 1, {431}),
        ("200 clients send their heads slowly", (SLOW_HEAD,), SERVER.header_seconds, {408}),
        ("200 clients send their bodies slowly", (SLOW_BODY,), SERVER.body_seconds, {408}),
    ],
)
async def test_slow_and_oversized_requests_do_not_delay_other_clients(
    serve: Serve,
    judge: Judge,
    control: str,
    case: str,
    manners: tuple[Manner, ...],
    seconds: float,
    statuses: set[int],
) -> None:
    async with serve(control) as service:
        _, headers = await register(service.client)
        load = Load(service.address, "/v1/users/me", headers)
        await load.run(GOOD_RATE, 3)
        before = await load.run(GOOD_RATE, BASELINE_SECONDS)
        async with crowd(service.address, CROWD, manners, BACK_AFTER_SECONDS) as found:
            during = await load.run(GOOD_RATE, FLOOD_SECONDS)
        load.close()
    ratio = share(during, 0.99) / share(before, 0.99)
    seen, oldest = Counter(ending.status for ending in found.endings), found.oldest_seconds
    broken = [
        *[f"a slow or oversized request was served for {oldest:.1f} s"]
        * (oldest > seconds + MARGIN_SECONDS),
        *[f"{seen[status]} × status {status}" for status in seen.keys() - statuses - {CUT_OFF}],
        *["no request was refused"] * (not statuses & seen.keys()),
        *[f"p99 of other clients is {ratio:.1f} times as long"] * (ratio > WORST_RATIO),
        *not_served(during),
    ]
    told = ", ".join(
        f"{times} × {f'status {status}' if status else 'cut off'}" for status, times in seen.items()
    )
    figure = (
        f"{CROWD} connections at a time: {told}, each within {oldest:.1f} s; p99 of other clients "
        f"{share(before, 0.99) * 1000:.0f} ms before, {share(during, 0.99) * 1000:.0f} ms meanwhile"
    )
    judge(case, control, figure, broken)


LARGE = LIMITS.body_bytes + 1
POST = (
    "POST /v1/users HTTP/1.1\r\nHost: test\r\nContent-Type: application/json\r\n"
    "Transfer-Encoding: chunked\r\n\r\n"
)
BODIES = {
    "with Content-Length": POST.replace(
        "Transfer-Encoding: chunked", f"Content-Length: {LARGE}"
    ).encode(),
    "chunked": POST.encode() + b"%x\r\n%s" % (2 * LARGE, LARGE * b" "),
    "longer than it says": POST.replace("Transfer-Encoding: chunked", "Content-Length: 2").encode()
    + b"{}"
    + LARGE * b" ",
}


@pytest.mark.parametrize("control", [GUARDED, "without any limit on the size of bodies"])
async def test_a_body_that_is_too_large_is_refused_before_it_is_read(
    serve: Serve, judge: Judge, control: str
) -> None:
    broken, slowest = [], 0.0
    async with serve(control) as service:
        for kind, content in BODIES.items():
            status, seconds = await answer_to(service, content)
            slowest = max(slowest, seconds)
            if status != (422 if kind == "longer than it says" else 413):
                broken.append(f"body {kind}: {outcome(status)}")
    figure = (
        "status 413 by Content-Length and chunked, without waiting for the rest of the body; "
        f"slowest response {slowest * 1000:.0f} ms"
    )
    judge("Clients send bodies that are too large", control, figure, broken)


async def answer_to(service: Service, content: bytes) -> tuple[int, float]:
    """Send the content, and wait for the status line for up to 3 s, without sending more."""
    reader, writer = await asyncio.open_connection(service.address.host, service.address.port)
    began = time.monotonic()
    writer.write(content)
    try:
        async with asyncio.timeout(3):
            line = await reader.readline()
    except (TimeoutError, ConnectionError):
        line = b""
    writer.close()
    return (int(line.split()[1]) if line else CUT_OFF), time.monotonic() - began


# Statements of 50 ms, so that the pool is saturated and the measuring client is not.
WORK = "/faults/hold/0.05"
STEPS = (0.5, 1, 2, 4)
STEP_SECONDS = 8
REFUSED_WITHIN_SECONDS = LIMITS.queue_seconds + 0.02


@pytest.mark.parametrize("control", [GUARDED, "without the limit on running requests"])
async def test_overload_does_not_reduce_the_served_rate(
    serve: Serve, judge: Judge, control: str
) -> None:
    async with serve(control) as service:
        load = Load(service.address, WORK, {})
        saturation = await load.saturate(32, 5)
        # The time to serve all running requests, doubled because the client needs CPU too.
        patience_seconds = 2 * service.workers * LIMITS.running / saturation
        served, refused = [], []
        for step in STEPS:
            await load.run(step * saturation, STEP_SECONDS)
            replies = load.replies  # with the pauses of the client, which are allowed for above
            good = [r for r in replies if r.status == 200 and r.seconds < patience_seconds]
            served.append(len(good) / STEP_SECONDS)
            refused += [reply for reply in replies if reply.status == 503]
        load.close()
    typical, kept = share(refused, 0.5), served[-1] / max(served)
    broken = [
        *[f"at {STEPS[-1]} times the saturation, {kept:.0%} of the best rate was served"]
        * (kept < 0.75),
        *[f"half of the 503 responses took more than {typical * 1000:.0f} ms"]
        * (typical > REFUSED_WITHIN_SECONDS),
    ]
    sent = ", ".join(f"{step * saturation:.0f}" for step in STEPS)
    rates = ", ".join(f"{rate:.0f}" for rate in served)
    figure = (
        f"of {sent} requests/s, {rates} requests/s were served: at the highest load {kept:.0%} of "
        f"the best rate; {len(refused)} responses with status 503, p50 {typical * 1000:.0f} ms, "
        f"p99 {share(refused, 0.99) * 1000:.0f} ms"
    )
    judge(
        "Clients send four times as many requests as the service can serve", control, figure, broken
    )
