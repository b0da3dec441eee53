"""No client can change what others get: not by headers, parameters or spellings of a path.

The first request fills the cache. The answer to the next request is compared with the answer of a
service that has no cache, over a real connection.
"""

import socket
from collections.abc import Iterator
from urllib.parse import urlencode, urlsplit

import httpx2
import pytest
from fastapi import FastAPI, Request

from app.infra.dependencies import ReadSession
from app.infra.web.cacheable import cacheable
from app.settings import Settings
from coherent_cache import shows
from tests.contract.declaration import World
from tests.contract.features import CACHED, ROWS, populate
from tests.contract.serving import Served, serve
from tests.features.users.factory import UserFactory

Headers = list[tuple[str, str]]

# One connection for each request: on a kept connection, answers wait for acknowledgements.
CLEAN = {"X-Request-ID": "of-the-clean-request", "Connection": "close"}
# Headers that a server or a cache adds to each answer anew.
NOT_COMPARED = {"date", "age", "ratelimit", "x-cache", "x-process-time"}

EVIL = "evil.example"
ECHO = "/v1/echo"
HEADERS: dict[str, Headers] = {
    "host": [("Host", EVIL)],
    "host with a port": [("Host", f"{EVIL}:1")],
    "no host": [("Host", "")],
    "forwarded host": [("X-Forwarded-Host", EVIL)],
    "forwarded proto": [("X-Forwarded-Proto", "evil")],
    "forwarded for": [("X-Forwarded-For", EVIL)],
    "forwarded for and proto": [("X-Forwarded-For", "6.6.6.6"), ("X-Forwarded-Proto", "https")],
    "forwarded port": [("X-Forwarded-Port", "666"), ("X-Forwarded-Scheme", "evil")],
    "forwarded prefix": [("X-Forwarded-Prefix", "/evil"), ("X-Script-Name", "/evil")],
    "forwarded": [("Forwarded", f"for=6.6.6.6;host={EVIL};proto=evil")],
    "another url": [("X-Original-URL", "/evil"), ("X-Rewrite-URL", "/evil")],
    "another method": [("X-HTTP-Method-Override", "DELETE"), ("X-Method-Override", "PUT")],
    "who asks": [("Authorization", "Bearer evil"), ("Cookie", "session=evil")],
    "language": [("Accept-Language", "evil"), ("Accept", "text/evil"), ("User-Agent", EVIL)],
    "no encoding": [("Accept-Encoding", "identity;q=0, *;q=0")],
    "any encoding": [("Accept-Encoding", "gzip, br, evil")],
    "range": [("Range", "bytes=0-0")],
    "condition": [("If-None-Match", "*")],
    "since": [("If-Modified-Since", "Fri, 31 Dec 9999 23:59:59 GMT")],
    "request id": [("X-Request-ID", "evil-evil-evil")],
    "a wrong request id": [("X-Request-ID", "evil\tSet-Cookie: evil")],
    "origin": [("Origin", f"https://{EVIL}"), ("Referer", f"https://{EVIL}/")],
    "a body": [("Content-Length", "4"), ("Content-Type", "application/json")],
    "twice": [("X-Forwarded-Host", EVIL), ("X-Forwarded-Host", "a"), ("Accept-Encoding", "x")],
    "upgrade": [("Connection", "X-Request-ID"), ("TE", "trailers")],
    "cache control": [("Cache-Control", "no-cache"), ("Pragma", "no-cache")],
    "past": [("Cache-Control", "no-store")],
}
LEAVE_NOTHING = {"past", "no host"}
# Spellings of a clean address.
SPELLINGS = [
    "{path}?{query}&{query}",
    "{path}?{query}&limit=1",
    "{path}?limit=1&{query}",
    "{path}?{query}&x=%3Cscript%3E",
    "{path}?x=evil&{query}",
    "{path}?utm_source=evil",
    "{path}?{upper}",
    "{path}?{query}%00",
    "{path}?{query}%0d%0aSet-Cookie:%20evil",
    "{path}?{query}#evil",
    "{path}?{query}&limit[]=1",
    "{path}?{query};limit=1",
    "{path}?%63ursor=evil&{query}",
    "{path}?",
    "{path}?&{query}",
    "{path}/?{query}",
    "{path}//?{query}",
    "/{path}?{query}",
    "{path}/.?{query}",
    "{path}/%2e?{query}",
    "{path}/%2e%2e?{query}",
    "{path}/..%2f{last}?{query}",
    "/evil/..{path}?{query}",
    "/evil/%2e%2e{path}?{query}",
    "/%2e{path}?{query}",
    "{escaped}?{query}",
    "{upper_path}?{query}",
    "{path}%0a?{query}",
    "{path}%0d%0aSet-Cookie:%20evil?{query}",
    "{path}%00?{query}",
    "{path}%20?{query}",
    "{path}%3f{query}",
    "{path}%3f{query}?{query}",
    "{path}%23?{query}",
    "{path};evil?{query}",
    "{path}.json?{query}",
    "{path}/evil.css?{query}",
    "http://evil.example{path}?{query}",
]


def add_echo(app: FastAPI) -> None:
    """Add a cached route whose answer says whether a load saw anything of the first request."""

    @app.get(ECHO)
    @cacheable()
    async def echo(request: Request, session: ReadSession, limit: int = 0) -> list[bool]:
        shows(session, "echo")
        scope = request.scope
        seen = (scope["headers"], scope["path"], scope["query_string"], scope["scheme"], limit)
        return ["evil" in f"{seen} {request.base_url} {request.client}".lower()]


@pytest.fixture(scope="module")
def cached(settings: Settings) -> Iterator[Served]:
    with serve(settings) as served:
        add_echo(served.app)
        yield served


@pytest.fixture(scope="module")
def client(cached: Served) -> Iterator[httpx2.Client]:
    """The client that comes next."""
    with httpx2.Client(base_url=cached.url, headers=CLEAN, timeout=60) as client:
        yield client


@pytest.fixture(scope="module")
def never_poisoned(settings: Settings) -> Iterator[httpx2.Client]:
    """A client of the same service without a cache, which nobody can poison."""
    cache = settings.cache.model_copy(update={"enabled": False})
    with (
        serve(settings.model_copy(update={"cache": cache})) as served,
        httpx2.Client(base_url=served.url, headers=CLEAN, timeout=60) as client,
    ):
        add_echo(served.app)
        yield client


@pytest.fixture
async def urls(make: UserFactory) -> list[str]:
    """Every cached route with its filters, every page that is missing, and the echo."""
    owner, other = await make.user(name="Ann", bio="b" * 500), await make.user(name="Ben")
    world = World(make.resources, owner, other, {"user_id": owner.id})
    await populate(world)
    urls = [ECHO]
    for route in CACHED:
        path = route.removeprefix("GET ")
        url = path.format_map(world.ids)
        urls.append(url)
        if ROWS[route].query:
            query = urlencode(ROWS[route].query, safe="{}").format_map(world.ids)
            urls.append(f"{url}?{query}&limit=3")
        if "{" in path:
            urls.append(path.format_map(dict.fromkeys(world.ids, 999)))
    return urls


def essence(answer: httpx2.Response) -> tuple[int, bytes, list[tuple[str, str]]]:
    """Return everything of a response that a client can see."""
    headers = [header for header in answer.headers.multi_items() if header[0] not in NOT_COMPARED]
    return answer.status_code, answer.content, sorted(headers)


def answers(client: httpx2.Client, urls: list[str]) -> list[object]:
    """Return the answers to clean requests."""
    return [essence(client.get(url)) for url in urls]


def ask(served: Served, target: str, headers: Headers, body: bytes = b"") -> None:
    """Send a request that no well-behaved client sends, and read the answer to its end."""
    names = {name.lower() for name, _ in headers}
    lines = [f"GET {target} HTTP/1.1", "Connection: close"]
    if "host" not in names:
        lines.append("Host: 127.0.0.1")
    lines += [f"{name}: {value}" for name, value in headers]
    address = urlsplit(served.url)
    with socket.create_connection((address.hostname, address.port), timeout=60) as connection:
        connection.sendall("\r\n".join([*lines, "", ""]).encode("latin-1") + body)
        while connection.recv(65_536):
            pass


def flush(served: Served) -> None:
    served.run(served.app.state.resources.cache.flush())


@pytest.mark.parametrize("kind", HEADERS)
def test_the_headers_of_a_request_do_not_change_the_next_answer(
    cached: Served, client: httpx2.Client, never_poisoned: httpx2.Client, urls: list[str], kind: str
) -> None:
    headers = HEADERS[kind]
    body = b"evil" if kind == "a body" else b""
    flush(cached)
    for url in urls:
        ask(cached, url, headers, body)
    truth = answers(never_poisoned, urls)
    for control in ({}, {"Cache-Control": "no-cache"}):
        for url, right in zip(urls, truth, strict=True):
            answer = client.get(url, headers=control)
            assert essence(answer) == right
            if kind not in LEAVE_NOTHING:
                assert answer.headers["x-cache"].startswith("HIT")


@pytest.mark.parametrize("spelling", SPELLINGS)
def test_the_spelling_of_a_request_does_not_change_the_next_answer(
    cached: Served,
    client: httpx2.Client,
    never_poisoned: httpx2.Client,
    urls: list[str],
    spelling: str,
) -> None:
    flush(cached)
    for url in urls:
        path, _, query = url.partition("?")
        query = query or "limit=2"
        target = spelling.format(
            path=path,
            query=query,
            upper=query.upper(),
            upper_path=path.upper(),
            last=path.rpartition("/")[2],
            escaped="".join(f"%{ord(letter):02x}" if letter == "s" else letter for letter in path),
        )
        ask(cached, target, [("X-Forwarded-Host", EVIL)])
    truth = answers(never_poisoned, urls)
    for _ in range(2):
        assert answers(client, urls) == truth


STRANGE = ("limit=1&limit=2", "limit=1&x=1", "LIMIT=1", "limit=%31", "limit=01", "cursor=evil")


@pytest.mark.parametrize("query", STRANGE)
def test_a_strange_query_is_answered_as_without_a_cache(
    cached: Served,
    client: httpx2.Client,
    never_poisoned: httpx2.Client,
    urls: list[str],
    query: str,
) -> None:
    flush(cached)
    strange = [f"{url}{'&' if '?' in url else '?'}{query}" for url in urls]
    truth = answers(never_poisoned, strange)
    for _ in range(2):
        assert answers(client, strange) == truth
