"""The requests that servers are compared with, and a check that all of them answer alike."""

import json
import urllib.request
from collections.abc import Iterable, Mapping
from datetime import datetime
from typing import Any

from benchmarks.blog import cursors
from benchmarks.load import Request
from benchmarks.world import Server, World
from dev.terminal import CommandError

TITLES = {
    "page": "the first page of 20 posts",
    "deep": "the page at row {row:,}",
    "post": "one post",
    "me": "/users/me",
    "create": "POST of a post",
}
NEW_POST = json.dumps({"title": "A new post", "body": "Some words of ordinary length. " * 5})
DEEP_SHARE = 0.9  # how deep the deep page is


def deep_row(world: World) -> int:
    return int(world.effort.posts * DEEP_SHARE)


def requests_of(world: World) -> dict[str, Request]:
    """Return the requests of all servers that page by our own cursors."""
    row = world.query(
        "SELECT created_at, id FROM posts ORDER BY created_at DESC, id DESC OFFSET $1 LIMIT 1",
        deep_row(world) - 1,
    )[0]
    cursor = cursors.encode(row["created_at"], row["id"]).replace("=", "%3D")
    return {
        "page": Request("/v1/posts"),
        "deep": Request(f"/v1/posts?cursor={cursor}"),
        "post": Request("/v1/posts/77"),
        "me": Request("/v1/users/me", headers=world.authorized),
        "create": Request(
            "/v1/posts",
            "POST",
            world.authorized | {"Content-Type": "application/json"},
            NEW_POST,
        ),
    }


def requests_by_offset(world: World) -> dict[str, Request]:
    """Return the requests of those that page by OFFSET."""
    return requests_of(world) | {"deep": Request(f"/v1/posts?offset={deep_row(world)}")}


def requests_of_service(world: World, server: Server) -> dict[str, Request]:
    """Return the requests of the service, whose cursors are its own."""
    most, rows, cursor = 100, deep_row(world), ""
    while rows > 0:
        page = fetch(server, Request(f"/v1/posts?limit={min(most, rows)}{cursor}"))
        cursor, rows = f"&cursor={page['next']}", rows - most
    return requests_of(world) | {"deep": Request(f"/v1/posts?limit=20{cursor}")}


def fetch(server: Server, request: Request) -> Any:
    """Send a request, and return the JSON of the response."""
    sent = urllib.request.Request(  # noqa: S310 - a server of our own
        server.url + request.path,
        method=request.method,
        headers=dict(request.headers or {}),
        data=request.body.encode() or None,
    )
    with urllib.request.urlopen(sent) as response:  # noqa: S310
        return json.load(response)


def require_equal(
    case: str, servers: Mapping[str, Server], requests: Mapping[str, Request], names: Iterable[str]
) -> None:
    """Raise `CommandError` if not all servers return the same data for a case."""
    found = {name: comparable(fetch(servers[name], requests[name])) for name in names}
    first = next(iter(found))
    for name, data in found.items():
        if data != found[first]:
            raise CommandError(f"{name} and {first} differ for {case}: {data} {found[first]}")


def comparable(data: Any) -> Any:
    """Return data without what may differ: the form of times, cursors, and the new post's."""
    if isinstance(data, list):
        return [comparable(one) for one in data]
    if not isinstance(data, dict):
        return data
    is_new = data.get("title") == json.loads(NEW_POST)["title"]
    return {
        name: _time(value) if name.endswith("_at") else comparable(value)
        for name, value in data.items()
        if name not in ("next", "prev")
        and not (is_new and name in ("id", "created_at", "updated_at"))
    }


def _time(text: str) -> datetime:
    return datetime.fromisoformat(text)
