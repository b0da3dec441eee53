"""Calls a route as the OpenAPI document shows it."""

from typing import Any

import httpx2

from tests.contract.callers import Caller
from tests.contract.declaration import Ids
from tests.contract.document import BY_ROUTE
from tests.contract.features import CACHED, ROWS

NO_STORE = {"Cache-Control": "no-store"}


def content(route: str, caller: Caller) -> dict[str, Any]:
    """Return the arguments of a request with the body that this caller sends."""
    row, operation = ROWS[route], BY_ROUTE.get(route)
    if row.content is not None:
        return row.content(caller)
    if operation is None or operation.media_type is None:
        return {}
    return {"json": operation.examples[0]}


async def call(
    client: httpx2.AsyncClient, route: str, ids: Ids, caller: Caller, **headers: str
) -> httpx2.Response:
    """Call a route with a body that is right."""
    method, path = route.split()
    sent = {**(caller.headers or {}), **headers}
    url = path.format_map(ids)
    return await client.request(method, url, headers=sent, **content(route, caller))


async def stored_state(client: httpx2.AsyncClient, ids: Ids) -> list[Any]:
    """Return everything that everybody may read, from the database and not from the cache."""
    urls = [route.removeprefix("GET ").format_map(ids) for route in CACHED]
    return [(await client.get(url, headers=NO_STORE)).json() for url in urls]
