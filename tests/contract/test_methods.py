"""HEAD is GET without the body. Any other method that a path does not have is 405, with `Allow`."""

import asyncio
import http.client
from urllib.parse import urlsplit

import httpx2
import pytest
from fastapi import FastAPI
from starlette.routing import compile_path
from starlette.types import Message

from tests.contract.declaration import Ids
from tests.contract.document import METHODS_BY_PATH
from tests.contract.features import CACHED, ENDLESS, make_rows
from tests.contract.serving import Served

Client = httpx2.AsyncClient
METHODS = {"GET", "HEAD", "POST", "PUT", "PATCH", "DELETE", "OPTIONS", "TRACE", "PURGE"}
REQUEST_ID = {"X-Request-ID": "the-same-each-time"}
ASSET = "/docs/assets/swagger-ui.css"

PATHS = sorted({*METHODS_BY_PATH, ASSET})


def offered(url: str) -> set[str]:
    """Return the methods of an address: its own, or those of every path that it matches."""
    if url in METHODS_BY_PATH:
        found = METHODS_BY_PATH[url]
        return found | {"HEAD"} if "GET" in found else found
    found = {"GET"} if url == ASSET else set()
    for path, methods in METHODS_BY_PATH.items():
        if compile_path(path)[0].fullmatch(url):
            found |= methods
    return found | {"HEAD"} if "GET" in found else found


@pytest.mark.parametrize("path", PATHS)
async def test_head_is_get_without_a_body(client: Client, ids: Ids, path: str) -> None:
    url = path.format_map(ids)
    if "GET" not in offered(url) or f"GET {path}" in ENDLESS:
        return
    got = await client.get(url, headers=REQUEST_ID)
    head = await client.head(url, headers=REQUEST_ID)
    for response in (got, head):  # the second may be from the cache
        response.headers.pop("x-cache", None)
        del response.headers["x-process-time"]
        if path == "/metrics":  # these count the first request too
            del response.headers["content-length"]
        response.headers.pop("age", None)
    assert (head.status_code, head.headers) == (got.status_code, got.headers)
    if not got.headers["content-type"].startswith("text/event-stream"):
        assert path == "/metrics" or int(head.headers["content-length"]) == len(got.content) > 0
    assert head.content == b""


@pytest.mark.parametrize("path", PATHS)
async def test_other_methods_are_405_with_an_allow_header(
    client: Client, ids: Ids, path: str
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
        await asyncio.Event().wait()  # there is no body, and the client stays connected
        raise AssertionError

    scope = {"type": "http", "method": "HEAD", "path": ASSET, "query_string": b"", "headers": []}
    await app(scope, receive, send)
    assert sent[0]["status"] == 200
    assert b"".join(message.get("body", b"") for message in sent) == b""


def test_the_next_request_of_a_connection_is_answered_after_a_head(served: Served) -> None:
    ids = served.run(make_rows(served.resources, served.run(served.make.user())))
    cached = next(iter(CACHED)).removeprefix("GET ").format_map(ids)
    connection = http.client.HTTPConnection(urlsplit(served.url).netloc, timeout=60)
    for method in ("HEAD", "GET", "HEAD", "GET"):
        for path in ("/openapi.json", cached):
            connection.request(method, path)
            response = connection.getresponse()
            body = response.read()
            assert (response.status, len(body) > 0) == (200, method == "GET")
    connection.close()
