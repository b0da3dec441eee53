"""Single mistakes whose cost can be counted, so that other programs do not disturb it."""

import asyncio
import http.client
from collections.abc import AsyncIterator, Callable
from datetime import UTC, datetime
from typing import Annotated, Any, Literal

import asyncpg
from fastapi import Depends, FastAPI
from sqlalchemy import DateTime
from starlette.types import Message

from app.errors import InvalidRequest
from app.infra.database.cursors import Cursor, cursor_format, list_identity
from benchmarks.blog import cursors
from benchmarks.section import Data, number, share, table
from benchmarks.world import World, service

ORDER = 18
TITLE = "Single mistakes"

PAGE = "/v1/posts"
ORDERS = 20
ALPHABET = "ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789-_"
# A deferred constraint is checked by the commit, so that the commit fails and not the INSERT.
TABLE = """
    CREATE TABLE measured_orders (number integer UNIQUE DEFERRABLE INITIALLY DEFERRED);
    INSERT INTO measured_orders VALUES (1)
"""
Scope = Literal["function", "request"]


def measure(world: World) -> Data:
    world.status.show("Single mistakes")
    with world.serving(service("polls", {"CACHE_NAMESPACE": "polls"})) as servers:
        polls = _poll(servers["polls"].url)
    found = {
        "polls": polls,
        "cursors": _alter_cursors(),
        "orders": asyncio.run(_measure_orders(world.servers.database_url)),
    }
    world.status.finish("Single mistakes: done")
    return found


def _poll(url: str) -> Data:
    """Return the sizes of the responses to a client that knows the ETag of a page, or does not."""
    tag, whole = _get_page(url, {})
    _, unchanged = _get_page(url, {"If-None-Match": tag})
    return {"whole": whole, "unchanged": unchanged}


def _get_page(url: str, headers: dict[str, str]) -> tuple[str, int]:
    """Return the ETag of the page, and the size of the headers and the body of the response."""
    connection = http.client.HTTPConnection(url.removeprefix("http://"), timeout=30)
    connection.request("GET", PAGE, headers={"Accept-Encoding": "gzip", **headers})
    response = connection.getresponse()
    size = sum(len(f"{name}: {value}\r\n") for name, value in response.getheaders())
    size += len(response.read())
    connection.close()
    assert response.status == (304 if headers else 200)
    return response.headers["ETag"], size


def _alter_cursors() -> Data:
    """Return the shares of cursors with one wrong character that two decoders do not take."""
    place, ours = (datetime(2026, 1, 1, tzinfo=UTC), 77), cursor_format(DateTime(timezone=True))
    posts = list_identity("posts", {})
    return {
        "errors": _share_of_errors(cursors.encode(*place), cursors.decode),
        "refused": _share_of_errors(
            ours.encode(Cursor(posts, *place)), lambda text: ours.decode(text, posts)
        ),
    }


def _share_of_errors(right: str, decode: Callable[[str], object]) -> float:
    texts, errors = altered(right), 0
    for text in texts:
        try:
            decode(text)
        except (ValueError, InvalidRequest):
            errors += 1
    return float(f"{errors / len(texts):.3g}")


def altered(text: str) -> list[str]:
    """Return all texts that differ from this one in one character."""
    return [
        text[:place] + other + text[place + 1 :]
        for place in range(len(text))
        for other in ALPHABET
        if other != text[place]
    ]


async def _measure_orders(url: str) -> Data:
    connection = await asyncpg.connect(url)
    try:
        await connection.execute(TABLE)
        return {
            "after": await _acknowledged(url, "request"),
            "before": await _acknowledged(url, "function"),
        }
    finally:
        await connection.execute("DROP TABLE measured_orders")
        await connection.close()


async def _acknowledged(url: str, scope: Scope) -> int:
    """Create orders whose commit fails. Return how many responses have status 201."""
    app = FastAPI()

    async def transaction() -> AsyncIterator[asyncpg.Connection]:
        connection = await asyncpg.connect(url)
        try:
            async with connection.transaction():
                yield connection
        finally:
            await connection.close()

    @app.post("/orders", status_code=201)
    async def create(
        connection: Annotated[asyncpg.Connection, Depends(transaction, scope=scope)],
    ) -> None:
        await connection.execute("INSERT INTO measured_orders VALUES (1)")

    statuses: list[int] = []
    request: dict[str, Any] = {"type": "http", "method": "POST", "path": "/orders"}

    async def receive() -> Message:
        return {"type": "http.request", "body": b""}

    async def send(message: Message) -> None:
        if message["type"] == "http.response.start":
            statuses.append(message["status"])

    for _ in range(ORDERS):
        try:
            await app({**request, "query_string": b"", "headers": []}, receive, send)
        except asyncpg.UniqueViolationError:
            continue  # the server logs it
        raise RuntimeError("A commit did not fail.")
    return statuses.count(201)


def figures(data: Data) -> dict[str, str]:
    found = {
        f"single.polls.{name}": f"{number(size / 1e3)} kB" for name, size in data["polls"].items()
    }
    found |= {f"single.orders.{name}": str(count) for name, count in data["orders"].items()}
    return found | {f"single.cursors.{name}": share(one) for name, one in data["cursors"].items()}


def report(data: Data) -> str:
    polls = [[TEXTS[name], number(size / 1e3)] for name, size in data["polls"].items()]
    orders = [[TEXTS[name], str(count), str(ORDERS)] for name, count in data["orders"].items()]
    wrong = [[TEXTS[name], share(one)] for name, one in data["cursors"].items()]
    return "\n\n".join(
        [
            INTRODUCTION,
            table(("a page that the client has already", "kB"), polls),
            table(("orders whose commit fails", "201", "of"), orders),
            table(("cursors with one wrong character", "error"), wrong),
        ]
    )


TEXTS = {
    "whole": "without its ETag: 200",
    "unchanged": "with its ETag: 304",
    "after": "committed after the response",
    "before": "committed before the response",
    "errors": "those of the ladder, which are only decoded",
    "refused": "those of this service, whose error is a 422",
}
INTRODUCTION = """Sizes are those of the headers and the compressed body of a page of 20 posts. The
orders are inserted by an application of ten lines, whose transaction is a dependency with `yield`.
In a cursor, each character is replaced by each other one. Cursors of this service that are not
refused name another place of the same list, which every client may read."""
