"""Small bodies that are expensive to parse do not delay other requests."""

import asyncio
import json
import time
from collections.abc import Sequence

import pytest

from dev.address import Address
from tests.faults.conftest import Judge, Serve
from tests.faults.load import register
from tests.faults.service import Service
from tests.faults.test_limits import Load, not_served, share
from tests.faults.verdicts import GUARDED
from tests.faults.wire import Reply, Wire

pytestmark = pytest.mark.faults

MIB = 1024 * 1024
JSON, FORM = "application/json", "application/x-www-form-urlencoded"
PART = b'--a\r\nContent-Disposition: form-data; name="b"\r\n\r\nc\r\n'
BODIES = [
    (FORM, b"&" * MIB),
    (FORM, b"a=b&" * (MIB // 4)),
    (FORM, b"&" * 8_192),  # the largest body of the login form
    (JSON, json.dumps({f"k{number}": 1 for number in range(60_000)}).encode()),
    (JSON, json.dumps({f"k{number}": 1 for number in range(14_000)}).encode()),
    (JSON, b"[" + b"[]," * (MIB // 3) + b"1]"),
    (JSON, b"[" * (MIB // 2) + b"]" * (MIB // 2)),
    (JSON, b"[" + (b"9" * 4_301 + b",") * 200 + b"1]"),
    ("multipart/form-data; boundary=a", PART * (MIB // len(PART))),
]
ROUTES = [
    *("POST /v1/auth/token", "POST /v1/auth/refresh", "POST /v1/auth/logout", "POST /v1/users"),
    *("PATCH /v1/users/me", "POST /v1/posts", "PATCH /v1/posts/1", "POST /v1/posts/1/comments"),
]
LONGEST_HOLD_SECONDS, WORST_RATIO = 0.05, 3
CLIENTS, FLOOD_SECONDS, GOOD_RATE, PAUSE_SECONDS = 8, 5, 50, 0.1
# A request of 1 ms may have to wait for one of the bodies. A p99 below this is acceptable.
NO_TROUBLE_SECONDS = 0.03


@pytest.mark.parametrize(
    "control", [GUARDED, "without the limits on values, nesting and the route's body size"]
)
async def test_no_body_blocks_the_event_loop(serve: Serve, judge: Judge, control: str) -> None:
    async with serve(control) as service:
        _, headers = await register(service.client)
        post = {"title": "T", "body": "B"}
        (await service.client.post("/v1/posts", json=post, headers=headers)).raise_for_status()
        requests = [
            request_bytes(route, media_type, body, headers)
            for route in ROUTES
            for media_type, body in BODIES
        ]
        await service.each_worker("/faults/held")  # starts the measurement
        replies = [await send(service.address, request) for request in requests]
        held = max(worker["held"] for worker in await service.each_worker("/faults/held"))
        load = Load(service.address, "/v1/posts", {})
        calm = await load.run(GOOD_RATE, FLOOD_SECONDS)
        flood = asyncio.create_task(flooded(service, requests))
        meanwhile = await load.run(GOOD_RATE, FLOOD_SECONDS)
        replies += await flood
        load.close()
    before, p99 = share(calm, 0.99), share(meanwhile, 0.99)
    wrong = sorted({reply.status for reply in replies} - {400, 413, 415, 422})
    broken = [
        *[f"a body blocked the event loop for {held * 1000:.0f} ms"]
        * (held > LONGEST_HOLD_SECONDS),
        *[f"p99 of other requests {p99 * 1000:.0f} ms, {before * 1000:.0f} ms before"]
        * (p99 > max(WORST_RATIO * before, NO_TROUBLE_SECONDS)),
        *[f"unexpected statuses {wrong}"] * bool(wrong),
        *not_served(meanwhile),
    ]
    figure = (
        f"{len(requests)} bodies, none blocked the event loop for more than {held * 1000:.0f} ms "
        f"of CPU; p99 of other requests {before * 1000:.0f} ms before, "
        f"{p99 * 1000:.0f} ms meanwhile"
    )
    judge("Clients send bodies that are expensive to parse", control, figure, broken)


def request_bytes(route: str, media_type: str, body: bytes, headers: dict[str, str]) -> bytes:
    given = {"Host": "test", **headers, "Content-Type": media_type, "Content-Length": len(body)}
    lines = [f"{route} HTTP/1.1", *(f"{name}: {value}" for name, value in given.items()), "", ""]
    return "\r\n".join(lines).encode() + body


async def send(address: Address, request: bytes) -> Reply:
    wire = Wire(address)
    reply = await wire._send(request)
    wire.close()
    return reply


async def flooded(service: Service, requests: Sequence[bytes]) -> list[Reply]:
    """Let several clients send all kinds of bodies for some seconds."""
    replies: list[Reply] = []
    ends_at = time.monotonic() + FLOOD_SECONDS

    async def client(number: int) -> None:
        while time.monotonic() < ends_at:
            replies.append(await send(service.address, requests[number % len(requests)]))
            number += CLIENTS
            await asyncio.sleep(PAUSE_SECONDS)

    await asyncio.gather(*map(client, range(CLIENTS)))
    return replies
