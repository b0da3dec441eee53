"""HEAD is GET without the body, and a method that a path does not have is 405 with those it has."""

import asyncio
import http.client
from urllib.parse import urlsplit

import httpx2
import pytest
from fastapi import FastAPI
from starlette.routing import Route
from starlette.types import Message

from tests.contract.document import APPLICATION, ENDLESS
from tests.contract.serving import Served

Client = httpx2.AsyncClient
METHODS = {"GET", "HEAD", "POST", "PUT", "PATCH", "DELETE", "OPTIONS", "TRACE", "PURGE"}
REQUEST_ID = {"X-Request-ID": "the-same-each-time"}
ASSET = "/docs/assets/swagger-ui.css"

ROUTES = [route for route in APPLICATION.router.routes if isinstance(route, Route)]
PATHS = sorted({route.path for route in ROUTES} | {ASSET})


def offered(url: str) -> set[str]:
    """Return the methods that this address has, those of every route that it fits."""
    found = {"GET"} if url == ASSET else set()
    for route in ROUTES:
        if route.path_regex.fullmatch(url):
            found |= route.methods or set()
    return found | {"HEAD"} if "GET" in found else found


@pytest.mark.parametrize("path", PATHS)
async def test_head_is_get_without_a_body(client: Client, ids: dict[str, int], path: str) -> None:
    url = path.format_map(ids)
    if "GET" not in offered(url) or f"GET {path}" in ENDLESS:
        return
    got = await client.get(url, headers=REQUEST_ID)
    head = await client.head(url, headers=REQUEST_ID)
    for response in (got, head):  # the second may be from the cache
        response.headers.pop("x-cache", None)
        del response.headers["x-process-time"]
        if path == "/metrics":  # which tell of the first request too
            del response.headers["content-length"]
        response.headers.pop("age", None)
    assert (head.status_code, head.headers) == (got.status_code, got.headers)
    assert path == "/metrics" or int(head.headers["content-length"]) == len(got.content) > 0
    assert head.content == b""


@pytest.mark.parametrize("path", PATHS)
async def test_any_other_method_is_405_with_those_it_has(
    client: Client, ids: dict[str, int], path: str
) -> None:
    url = path.format_map(ids)
    for method in METHODS - offered(url):
        response = await client.request(method, url)
        assert response.status_code == 405, method
        assert set(response.headers["allow"].split(", ")) == offered(url)
        assert method == "HEAD" or response.json()["code"] == "method_not_allowed"


async def test_no_part_of_a_body_leaves_the_application_for_head(app: FastAPI, clean: None) -> None:
    sent: list[Message] = []

    async def send(message: Message) -> None:
        sent.append(message)

    async def receive() -> Message:
        await asyncio.Event().wait()  # there is no body, and nobody leaves
        raise AssertionError

    scope = {"type": "http", "method": "HEAD", "path": ASSET, "query_string": b"", "headers": []}
    await app(scope, receive, send)
    assert sent[0]["status"] == 200
    assert b"".join(message.get("body", b"") for message in sent) == b""


def test_the_next_request_of_a_connection_is_answered_after_a_head(served: Served) -> None:
    connection = http.client.HTTPConnection(urlsplit(served.url).netloc, timeout=60)
    for method in ("HEAD", "GET", "HEAD", "GET"):
        connection.request(method, "/v1/posts")
        response = connection.getresponse()
        body = response.read()
        assert (response.status, len(body) > 0) == (200, method == "GET")
    connection.close()
