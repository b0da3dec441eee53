"""Nothing that a client sends gets a 5xx: a walk through every field, parameter and header.

A refusal is a problem with the id of the request. It repeats the path, and nothing else of the
request.
"""

import json
import re
from collections.abc import Iterator
from dataclasses import dataclass

import httpx2
import pytest

from app.features.users.models import User
from tests.contract.declaration import Ids
from tests.contract.document import OPERATIONS, Operation
from tests.features.users.factory import UserFactory

Client = httpx2.AsyncClient

MARK = "hunter2"  # in every text that is sent, and in no answer
JSON = "application/json"
FORM = "application/x-www-form-urlencoded"

DEEP = 50_000
OVERFLOWS = [
    f"{2**63 - 1}",
    f"{2**63}",
    f"-{2**63 + 1}",
    "9" * 5_000,
    "1e400",
    "-1e400",
    "NaN",
    "-Infinity",
]
IN_JSON = [
    *OVERFLOWS,
    *("-1", "0", "1.5", "true", "null", "[]", "{}", '""', f'["{MARK}"]', f'{{"{MARK}": 1}}'),
    *(f'"{MARK}\\u0000"', f'"{MARK}\\ud800"', f'"\\udfff{MARK}"', f'"{MARK * 10_000}"'),
    *(f'"{MARK}\\ufffe\\u202e"', "[" * DEEP + "]" * DEEP, '{"a":' * DEEP + "1" + "}" * DEEP),
]
IN_URL = [
    *OVERFLOWS,
    *("-1", "0", "1.5", "true", "null", "", MARK, f"{MARK}%00", "%00", f"{MARK}%ED%A0%80"),
    *(f"%FF{MARK}", MARK * 1_000, "%F0%9F%92%A9", "%0D%0Aa:%20b", "%25", "%2e%2e", "%5B%5D"),
]
NO_NUMBERS = [
    *("1_0", "+1", "%201", "1%20", "1%0A", "1.0", "1e0", "0x1", "%D9%A1", "%EF%BC%91"),
    *("0", "-1", f"{2**63}", "9" * 5_000),
]
BODIES = [
    *(b"", b"null", b"[]", b"1", b"{", b'{"a"', b"\xff\xfe{}", b"\xef\xbb\xbf{}", b"\x00", b"NaN"),
    *(f'"{MARK}"'.encode(), f'{{"{MARK}": 1}}'.encode(), b"[" * DEEP, b"=&=;%", b"a" * 100_000),
    f'{{"body": "{MARK}"}}'.encode("utf-16"),
]
MEDIA_TYPES = [
    *("", JSON, FORM, "text/plain", "application/xml", "application/vnd.api+json", "json", "/"),
    *("multipart/form-data", "multipart/form-data; boundary=a", f"{JSON}; charset={MARK}", "\xff"),
    *(f"{FORM}; charset=undefined", f"{MARK}/{MARK * 500}", f"{JSON}\x00"),
]
HEADER_VALUES = [
    *("", MARK, f"{MARK}\x00", f"{MARK}\xff\xfe", MARK * 1_000, f'"{MARK}', f'W/"{MARK}", *', "*"),
    *("Bearer", "Bearer ", f"Bearer {MARK}.{MARK}.{MARK}", f"Bearer {MARK}\x00", f"Basic {MARK}"),
    *("Bearer e30.e30.e30", "Bearer W1tbW1tb.W10.AA", f"Bearer \xff{MARK}", "bearer a b"),
]
HEADERS = ["Authorization", "X-Request-ID", "If-Match", "If-None-Match", "Accept", "Range"]


@dataclass(frozen=True)
class Place:
    """A place for a value: a part of the request, and a name in that part."""

    operation: Operation
    part: str
    name: str
    is_number: bool = False
    takes_zero: bool = False

    def __str__(self) -> str:
        return f"{self.operation} {self.part} {self.name}"

    @property
    def in_body(self) -> bool:
        return self.part in ("json", "form")


def places() -> Iterator[Place]:
    """Yield every parameter and every field of a body."""
    for operation in OPERATIONS:
        for parameter in operation.parameters:
            schema = json.dumps(parameter["schema"])
            is_number, takes_zero = '"type": "integer"' in schema, '"minimum": 0' in schema
            yield Place(operation, parameter["in"], parameter["name"], is_number, takes_zero)
        for name in operation.body.get("properties", {}):
            yield Place(operation, "json" if operation.media_type == JSON else "form", name)


PLACES = list(places())
WITH_BODY = [operation for operation in OPERATIONS if operation.media_type]


@dataclass(frozen=True)
class Sender:
    """Sends requests that are wrong in one place and right in all others."""

    client: Client
    headers: dict[str, str]
    ids: Ids

    async def send(
        self, operation: Operation, url: str, content: bytes | None, headers: list[tuple[str, str]]
    ) -> httpx2.Response:
        sent = {**self.headers, **dict(headers)}
        raw = [(name.encode(), value.encode("latin-1")) for name, value in sent.items()]
        return await self.client.request(operation.method, url, content=content, headers=raw)

    async def put(self, place: Place, value: str) -> httpx2.Response:
        """Send `value` in one place. It is encoded as that part of the request has to be."""
        operation = place.operation
        ids = {**self.ids, place.name: value} if place.part == "path" else self.ids
        url = operation.url(ids)
        if place.part == "query":
            url += f"?{place.name}={value}"
        content = body(operation, {place.name: value} if place.in_body else {})
        headers = [("Content-Type", operation.media_type)] if operation.media_type else []
        if place.part == "header":
            headers.append((place.name, value))
        return await self.send(operation, url, content, headers)


def body(operation: Operation, raw: dict[str, str]) -> bytes | None:
    """Return the example body with the values in `raw`, which are encoded already."""
    example = next(iter(operation.examples), {})
    if operation.media_type == JSON:
        fields = {name: json.dumps(value) for name, value in example.items()} | raw
        inside = ", ".join(f'"{name}": {value}' for name, value in fields.items())
        return f"{{{inside}}}".encode()
    if operation.media_type == FORM:
        return "&".join(f"{name}={value}" for name, value in {**example, **raw}.items()).encode()
    return None


def check(response: httpx2.Response, sent: object) -> None:
    """Assert what is true of every answer."""
    shown = repr(sent)[:200]
    assert response.status_code < 500, shown
    if response.status_code < 400:
        return
    assert response.headers["content-type"] == "application/problem+json", shown
    problem = response.json()
    # These two may contain a forbidden text: the id by chance, and the path of the request.
    assert problem.pop("request_id") == response.headers["x-request-id"], shown
    del problem["instance"]
    text = json.dumps(problem)
    assert MARK not in text, shown
    assert not re.search(r"9{20}|922337203685477580[89]|1e400|NaN|Infinity", text), shown


@pytest.fixture
def sender(client: Client, make: UserFactory, user: User, ids: Ids) -> Sender:
    return Sender(client, make.headers(user), ids)


@pytest.mark.parametrize("place", PLACES, ids=str)
async def test_no_value_causes_a_5xx(sender: Sender, place: Place) -> None:
    for value in IN_JSON if place.part == "json" else IN_URL:
        check(await sender.put(place, value), value)


def refused(response: httpx2.Response) -> list[list[str]]:
    """Return the places that validation refused, before the database saw the values."""
    problem = response.json()
    assert response.status_code == (400 if "error" in problem else 422)  # RFC 6749, section 5.2
    if problem["code"] == "unsupported_grant_type":
        return [["body", "grant_type"]]
    return [error["loc"] for error in problem.get("errors", [])]


@pytest.mark.parametrize("place", [place for place in PLACES if place.is_number], ids=str)
async def test_only_plain_digits_are_a_number(sender: Sender, place: Place) -> None:
    for value in NO_NUMBERS:
        if value == "0" and place.takes_zero:
            continue
        assert refused(await sender.put(place, value)) == [[place.part, place.name]], value


@pytest.mark.parametrize("place", [place for place in PLACES if place.in_body], ids=str)
async def test_text_that_cannot_be_stored_is_refused(sender: Sender, place: Place) -> None:
    for value in ["%00"] if place.part == "form" else [r'"\u0000"', r'"\ud800"']:
        assert ["body", place.name] in refused(await sender.put(place, value))


@pytest.mark.parametrize("place", [place for place in PLACES if place.part != "path"], ids=str)
async def test_no_repeated_value_causes_a_5xx(sender: Sender, place: Place) -> None:
    twice = f'"{MARK}", "{place.name}": 1' if place.part == "json" else f"{MARK}&{place.name}=1"
    check(await sender.put(place, twice), twice)


@pytest.mark.parametrize("operation", WITH_BODY, ids=str)
async def test_no_body_causes_a_5xx(sender: Sender, operation: Operation) -> None:
    url, good = operation.url(sender.ids), body(operation, {})
    for media_type in MEDIA_TYPES:
        for content in [*BODIES, good]:
            check(
                await sender.send(operation, url, content, [("Content-Type", media_type)]),
                (media_type, content),
            )


@pytest.mark.parametrize("header", HEADERS)
@pytest.mark.parametrize("operation", OPERATIONS, ids=str)
async def test_no_header_causes_a_5xx(sender: Sender, operation: Operation, header: str) -> None:
    for value in HEADER_VALUES:
        kind = [("Content-Type", operation.media_type)] if operation.media_type else []
        url, content = operation.url(sender.ids), body(operation, {})
        check(await sender.send(operation, url, content, [*kind, (header, value)]), value)
