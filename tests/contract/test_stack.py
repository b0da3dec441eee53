"""Middleware and dependencies do not block, and the documentation needs no other host."""

import re
from collections.abc import Callable, Iterator
from inspect import isasyncgenfunction, iscoroutinefunction, isroutine
from typing import Any

import httpx2
import pytest
from fastapi import FastAPI
from fastapi.dependencies.models import Dependant
from starlette.middleware.base import BaseHTTPMiddleware

from app.main import create_app
from app.settings import Settings
from tests.application import client_of
from tests.contract.document import api_routes

Client = httpx2.AsyncClient


def calls(dependant: Dependant) -> Iterator[Callable[..., Any]]:
    """Yield an endpoint and all its dependencies."""
    if dependant.call is not None:
        yield dependant.call
    for dependency in dependant.dependencies:
        yield from calls(dependency)


def runs_on_the_loop(call: Any) -> bool:
    """Whether FastAPI runs it on the event loop. Everything else gets a thread."""
    function = call if isroutine(call) else type(call).__call__
    return iscoroutinefunction(function) or isasyncgenfunction(function)


def layers(app: Any) -> Iterator[Any]:
    """Yield the middleware that a request passes, from the outermost to the router."""
    while app is not None and not isroutine(app):
        yield app
        app = getattr(app, "middleware_stack", None) or getattr(app, "app", None)


def test_no_endpoint_and_no_dependency_takes_a_thread(app: FastAPI) -> None:
    for route in api_routes(app):
        for call in calls(route.dependant):
            assert runs_on_the_loop(call), f"{route.path}: {call}"


def test_no_middleware_is_a_base_http_middleware(app: FastAPI) -> None:
    app.middleware_stack = app.middleware_stack or app.build_middleware_stack()
    stack = [app, *app.router.routes]
    found = [layer for start in stack for layer in layers(start)]
    assert len(found) > len(stack) + 5  # the walk reached the inner layers
    assert not [layer for layer in found if isinstance(layer, BaseHTTPMiddleware)]


def test_middleware_is_in_its_order(settings: Settings) -> None:
    """A hit reads no body and takes no place, an error is observed, a client that sends too much is
    refused before its body is read, and an upload before Valkey is asked, waiting for a place is
    not counted as the time of a request.
    """
    found = [
        type(layer).__name__ for layer in layers(create_app(settings).build_middleware_stack())
    ]
    assert found[:9] == [
        "ObservationMiddleware",
        "HeadRequestMiddleware",
        "UnhandledErrorMiddleware",
        "ResponseCacheMiddleware",
        "UploadQueueMiddleware",
        "RateLimitMiddleware",
        "BodyLimitMiddleware",
        "ConcurrencyLimitMiddleware",
        "RequestTimeoutMiddleware",
    ]


async def test_documentation_page_loads_nothing_from_other_hosts(client: Client) -> None:
    page = (await client.get("/docs")).text
    assert re.findall(r"//[\w.-]+", page) == []
    addresses = re.findall(r"""(?:src|href|url)\s*[=:]\s*["']([^"']+)""", page)
    assert len(addresses) == 4  # the script, its style, the icon, the document
    for address in addresses:
        response = await client.get(f"/{address}")
        assert response.is_success, address
        assert not re.findall(r"(?:@import|url\()[\"' ]*(?:https?:)?//", response.text)


@pytest.mark.parametrize("path", ["/docs", "/docs/assets/swagger-ui.css", "/openapi.json"])
async def test_the_documentation_can_be_switched_off(
    client: Client, settings: Settings, path: str
) -> None:
    off = settings.model_copy(update={"docs": settings.docs.model_copy(update={"enabled": False})})
    assert (await client.get(path)).status_code == 200
    async with client_of(create_app(off)) as without:
        assert (await without.get(path)).status_code == 404
