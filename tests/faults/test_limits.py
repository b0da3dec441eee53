"""Clients that send too much, too slowly, or too often: everybody else is served as before."""

import asyncio
import time
from collections import Counter
from collections.abc import Sequence

import pytest

from app.infra.server.settings import ServerSettings
from app.infra.web.settings import LimitsSettings
from dev.address import Address
from tests.faults.conftest import Judge, Serve
from tests.faults.load import sign_up
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
# What answers take on shared cores, beyond the deadline itself.
MARGIN_SECONDS = 1.0


class Load:
    """GETs at a constant rate, each on a connection that nobody uses, whatever becomes of them."""

    def __init__(self, address: Address, path: str, headers: dict[str, str]) -> None:
        self._address, self._path, self._headers = address, path, headers
        self._free: list[Wire] = []
        self.replies: list[Reply] = []

    async def connect(self, number: int) -> None:
        """Open so many connections, as a proxy has them."""
        await asyncio.gather(*(self._ask() for _ in range(number)))

    async def run(self, rate: float, seconds: float) -> list[Reply]:
        """Return the replies of so many seconds."""
        self.replies = []
        loop = asyncio.get_running_loop()
        began = loop.time()
        async with asyncio.TaskGroup() as group:
            for number in range(int(rate * seconds)):
                await asyncio.sleep(began + number / rate - loop.time())
                group.create_task(self._ask())
        return self.replies

    async def saturate(self, clients: int, seconds: float) -> float:
        """Return how many requests a second are served when each client asks again at once."""
        self.replies = []
        ends_at = time.monotonic() + seconds

        async def ask_again() -> None:
            while time.monotonic() < ends_at:
                await self._ask()

        await asyncio.gather(*(ask_again() for _ in range(clients)))
        return len(self.replies) / seconds

    def close(self) -> None:
        """Hang up."""
        for wire in self._free:
            wire.close()

    async def _ask(self) -> None:
        wire = self._free.pop() if self._free else Wire(self._address)
        self.replies.append(await wire.write("GET", self._path, self._headers))
        self._free.append(wire)


def share(replies: Sequence[Reply], part: float) -> float:
    """Return the seconds within which so many of them came."""
    times = sorted(reply.seconds for reply in replies)
    return times[int(len(times) * part)] if times else 0.0


def not_served(replies: Sequence[Reply]) -> list[str]:
    wrong = Counter(reply.status for reply in replies if reply.status != 200)
    return [f"{times} × {status or 'no answer'}" for status, times in sorted(wrong.items())]


@pytest.mark.parametrize("control", [GUARDED, "stock_protocol"])
@pytest.mark.parametrize(
    ("case", "manners", "seconds", "statuses"),
    [
        ("I6 header flood", (MANY_FIELDS, LONG_FIELD), 1, {431}),
        ("I7 slowloris, heads", (SLOW_HEAD,), SERVER.header_seconds, {408}),
        ("I7 slowloris, bodies", (SLOW_BODY,), SERVER.body_seconds, {408}),
    ],
)
async def test_rude_clients_leave_good_ones_alone(
    serve: Serve,
    judge: Judge,
    control: str,
    case: str,
    manners: tuple[Manner, ...],
    seconds: float,
    statuses: set[int],
) -> None:
    async with serve(control) as service:
        author = await sign_up(service.client)
        load = Load(service.address, "/v1/users/me", author.headers)
        await load.run(GOOD_RATE, 3)
        before = await load.run(GOOD_RATE, BASELINE_SECONDS)
        async with crowd(service.address, CROWD, manners, BACK_AFTER_SECONDS) as found:
            during = await load.run(GOOD_RATE, FLOOD_SECONDS)
        load.close()
    ratio = share(during, 0.99) / share(before, 0.99)
    seen, oldest = Counter(ending.status for ending in found.endings), found.oldest_seconds
    broken = [
        *[f"one was served for {oldest:.1f} s"] * (oldest > seconds + MARGIN_SECONDS),
        *[f"{seen[status]} × {status}" for status in seen.keys() - statuses - {CUT_OFF}],
        *["nobody was refused"] * (not statuses & seen.keys()),
        *[f"good traffic: p99 × {ratio:.1f}"] * (ratio > WORST_RATIO),
        *not_served(during),
    ]
    told = ", ".join(f"{times} × {status or 'cut off'}" for status, times in seen.items())
    figure = (
        f"{CROWD} at a time: {told}, the last after {oldest:.1f} s; good p99 "
        f"{share(before, 0.99) * 1000:.0f} → {share(during, 0.99) * 1000:.0f} ms"
    )
    judge(case, control, figure, broken)


LARGE = LIMITS.body_bytes + 1
POST = (
    "POST /v1/users HTTP/1.1\r\nHost: test\r\nContent-Type: application/json\r\n"
    "Transfer-Encoding: chunked\r\n\r\n"
)
BODIES = {
    "by length": POST.replace("Transfer-Encoding: chunked", f"Content-Length: {LARGE}").encode(),
    "chunked": POST.encode() + b"%x\r\n%s" % (2 * LARGE, LARGE * b" "),
    "longer than it says": POST.replace("Transfer-Encoding: chunked", "Content-Length: 2").encode()
    + b"{}"
    + LARGE * b" ",
}


@pytest.mark.parametrize("control", [GUARDED, "no_body_limit"])
async def test_what_is_too_large_is_refused_before_it_is_read(
    serve: Serve, judge: Judge, control: str
) -> None:
    broken, slowest = [], 0.0
    async with serve(control) as service:
        for kind, content in BODIES.items():
            status, seconds = await answer_to(service, content)
            slowest = max(slowest, seconds)
            if status != (422 if kind == "longer than it says" else 413):
                broken.append(f"{kind}: {status or 'no answer'}")
    figure = f"413 by length and chunked, in {slowest * 1000:.0f} ms at most, the rest unread"
    judge("I5 size", control, figure, broken)


async def answer_to(service: Service, content: bytes) -> tuple[int, float]:
    """Send, and wait for the head of the answer for a while, with nothing more to come."""
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


# Statements of 50 ms: the pool is what is saturated, and not what measures it.
WORK = "/faults/hold/0.05"
STEPS = (0.5, 1, 2, 4)
STEP_SECONDS = 8
REFUSED_WITHIN_SECONDS = LIMITS.queue_seconds + 0.02


@pytest.mark.parametrize("control", [GUARDED, "no_in_flight_limit"])
async def test_past_saturation_as_much_is_served(serve: Serve, judge: Judge, control: str) -> None:
    async with serve(control) as service:
        load = Load(service.address, WORK, {})
        saturation = await load.saturate(32, 5)
        # A full house, and as much again for what the load itself takes.
        patience_seconds = 2 * service.workers * LIMITS.running / saturation
        served, refused = [], []
        for step in STEPS:
            replies = await load.run(step * saturation, STEP_SECONDS)
            good = [r for r in replies if r.status == 200 and r.seconds < patience_seconds]
            served.append(len(good) / STEP_SECONDS)
            refused += [reply for reply in replies if reply.status == 503]
        load.close()
    typical, kept = share(refused, 0.5), served[-1] / max(served)
    broken = [
        *[f"at {STEPS[-1]} × {kept:.0%} of the peak"] * (kept < 0.75),
        *[f"half of the 503 after {typical * 1000:.0f} ms"] * (typical > REFUSED_WITHIN_SECONDS),
    ]
    rates = ", ".join(f"{rate:.0f}" for rate in served)
    figure = (
        f"{rates} served a second at 0.5, 1, 2, 4 × {saturation:.0f}: {kept:.0%} of the peak; "
        f"{len(refused)} × 503, p50 {typical * 1000:.0f}, p99 {share(refused, 0.99) * 1000:.0f} ms"
    )
    judge("O1 goodput", control, figure, broken)
