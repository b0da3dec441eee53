"""Requests with Upgrade, directly and through a proxy that other clients share."""

import asyncio
import json
from collections.abc import Iterator
from itertools import product
from typing import NamedTuple
from urllib.parse import urlencode

import pytest

from dev.address import Address
from tests.faults.conftest import Judge, Serve
from tests.faults.forwarder import forwarding, read_message
from tests.faults.load import register
from tests.faults.service import Service
from tests.faults.verdicts import GUARDED
from tests.faults.wire import Wire
from tests.features.users.factory import PASSWORD

pytestmark = pytest.mark.faults
PATIENCE_SECONDS = 5
ATTACKS, ATTACKERS, VICTIMS = 150, 2, 2
UPGRADES = {
    "h2c": (
        "Connection: Upgrade, HTTP2-Settings\r\nUpgrade: h2c\r\n"
        "HTTP2-Settings: AAMAAABkAAQAoAAAAAIAAAAA\r\n"
    ),
    "foo/2": "Connection: upgrade\r\nUpgrade: foo/2\r\n",
    "websocket": (
        "Connection: Upgrade\r\nUpgrade: websocket\r\nSec-WebSocket-Version: 13\r\n"
        "Sec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==\r\n"
    ),
}
FRAMINGS = {
    "by length": lambda body: (f"Content-Length: {len(body)}\r\n", body),
    "chunked": lambda body: (
        "Transfer-Encoding: chunked\r\n",
        b"%x\r\n%s\r\n0\r\n\r\n" % (len(body), body),
    ),
}


class Person(NamedTuple):
    """An account, with its Authorization header."""

    email: str
    headers: dict[str, str]

    @property
    def request(self) -> bytes:
        """A request for the account's own data."""
        fields = "".join(f"{name}: {value}\r\n" for name, value in self.headers.items())
        return f"GET /v1/users/me HTTP/1.1\r\nHost: test\r\n{fields}\r\n".encode()


class Attempt(NamedTuple):
    """A request with Upgrade, in two parts, and the text that its response must contain."""

    name: str
    head: bytes
    body: bytes
    expected: bytes


def attempts(person: Person) -> Iterator[Attempt]:
    """Yield a login and bodies that look like requests, with every Upgrade and framing."""
    form = urlencode({"username": person.email, "password": PASSWORD}).encode()
    hidden = b"\r\n" * 20_000 + person.request
    bodies = [
        ("a login", "/v1/auth/token", form, b'"access_token":'),
        ("a request", "/faults/echo", person.request, b"%d" % len(person.request)),
        ("lines and a request", "/faults/echo", hidden, b"%d" % len(hidden)),
    ]
    for (kind, path, body, expected), (upgrade, fields), (framing, frame) in product(
        bodies, UPGRADES.items(), FRAMINGS.items()
    ):
        length, framed = frame(body)
        content_type = "Content-Type: application/x-www-form-urlencoded\r\n"
        head = f"POST {path} HTTP/1.1\r\nHost: test\r\n{content_type}{fields}{length}\r\n"
        yield Attempt(f"{upgrade}, {kind} {framing}", head.encode(), framed, expected)


async def answers_to(address: Address, parts: list[bytes]) -> list[bytes]:
    """Send each part in a packet of its own, and return the bodies of the responses."""
    reader, writer = await asyncio.open_connection(address.host, address.port)
    bodies = []
    try:
        async with asyncio.timeout(PATIENCE_SECONDS):
            for part in parts:
                writer.write(part)
                await writer.drain()
                await asyncio.sleep(0.02)
            while True:
                bodies.append((await read_message(reader))[1])
    except (asyncio.IncompleteReadError, OSError):
        return bodies
    finally:
        writer.close()


async def send_directly(service: Service, person: Person) -> tuple[int, list[str]]:
    """Return how many requests were sent, and which ones did not get exactly one right response."""
    last = person.request.replace(b"\r\n", b"\r\nConnection: close\r\n", 1)
    number, wrong = 0, []
    for attempt in attempts(person):
        for parts in ([attempt.head + attempt.body, last], [attempt.head, attempt.body, last]):
            bodies = await answers_to(service.address, parts)
            number += 1
            right = len(bodies) == 2 and all(
                expected in body
                for expected, body in zip(
                    (attempt.expected, person.email.encode()), bodies, strict=True
                )
            )
            if not right:
                wrong.append(f"{attempt.name}, in {len(parts) - 1} packets: {len(bodies)} answers")
    return number, wrong


async def attack(proxy: Address, attacker: Person) -> None:
    """Hide a request in the body of another one, again and again."""
    chosen = [attempt for attempt in attempts(attacker) if "login" not in attempt.name]
    for number in range(ATTACKS):
        attempt = chosen[number % len(chosen)]
        reader, writer = await asyncio.open_connection(proxy.host, proxy.port)
        writer.write(attempt.head + attempt.body)
        try:
            async with asyncio.timeout(PATIENCE_SECONDS):
                await read_message(reader)
        except (asyncio.IncompleteReadError, OSError):
            pass
        writer.close()


async def ask_until(over: asyncio.Event, proxy: Address, victim: Person) -> list[str]:
    """Request the victim's own data until the attack is over. Return whose data was received."""
    wire = Wire(proxy, PATIENCE_SECONDS)
    seen = []
    while not over.is_set():
        reply = await wire.write("GET", "/v1/users/me", victim.headers)
        try:
            seen.append(str(json.loads(reply.body)["email"]))
        except (ValueError, KeyError, TypeError):
            seen.append(str(reply.status or "no response"))
    wire.close()
    return seen


async def attack_victims(service: Service, people: list[Person]) -> tuple[int, list[str]]:
    """Return how many requests the victims sent, and which responses were not their own."""
    victims, attackers = people[:VICTIMS], people[VICTIMS:]
    over = asyncio.Event()
    async with forwarding(service.address) as proxy, asyncio.TaskGroup() as group:
        asking = [group.create_task(ask_until(over, proxy, victim)) for victim in victims]
        await asyncio.gather(*(attack(proxy, attacker) for attacker in attackers))
        over.set()
    answers = [
        (victim, seen)
        for victim, task in zip(victims, asking, strict=True)
        for seen in task.result()
    ]
    others = {person.email for person in people}
    foreign = sum(seen != victim.email and seen in others for victim, seen in answers)
    failed = sum(seen not in others for _, seen in answers)
    return len(answers), [
        *[f"{foreign} requests of other clients got the response to another request"]
        * bool(foreign),
        *[f"{failed} requests of other clients failed"] * bool(failed),
    ]


@pytest.mark.parametrize("control", [GUARDED, "with Uvicorn's own HTTP protocol"])
async def test_a_body_behind_an_upgrade_is_never_a_request(
    serve: Serve, judge: Judge, control: str
) -> None:
    async with serve(control) as service:
        people = [Person(*await register(service.client)) for _ in range(VICTIMS + ATTACKERS)]
        asked, confused = await attack_victims(service, people)
        sent, wrong = await send_directly(service, people[0])
    figure = (
        f"{sent} requests with Upgrade, each got exactly one response; behind a proxy that "
        f"forwards Upgrade, {ATTACKS * ATTACKERS} attacks and {asked} requests of other clients, "
        "each got its own response"
    )
    judge("Clients send requests with Upgrade", control, figure, [*confused, *wrong])
