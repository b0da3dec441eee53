"""A route that requires an access token reads no body without a valid one."""

import re
from collections.abc import AsyncIterator

import pytest
from fastapi import Request

from app.features.users.dependencies import CurrentUser, current_user
from app.features.users.models import User
from app.settings import Settings
from tests.application import client_of, running


@pytest.mark.parametrize(
    ("headers", "detail"),
    [
        ({}, "This call needs an access token."),
        ({"Authorization": "Basic YTpi"}, "This call needs an access token."),
        ({"Authorization": "Bearer x"}, "The access token is not valid."),
    ],
)
async def test_no_body_is_read_without_a_valid_token_that_its_route_requires(
    settings: Settings, headers: dict[str, str], detail: str
) -> None:
    async def pieces() -> AsyncIterator[bytes]:
        raise AssertionError("The body was read.")
        yield b""

    async with running(settings) as app, client_of(app) as client:
        routes = [
            (method, re.sub(r"{\w+}", "1", path))
            for path, operations in app.openapi()["paths"].items()
            for method, operation in operations.items()
            if "requestBody" in operation and operation.get("security")
        ]
        assert ("patch", "/v1/users/me") in routes
        for method, path in routes:
            response = await client.request(method, path, content=pieces(), headers=headers)
            assert (response.status_code, response.json()["detail"]) == (401, detail), path
            assert response.headers["www-authenticate"] == "Bearer"


async def test_overridden_dependency_decides_who_the_caller_is(settings: Settings) -> None:
    async with running(settings) as app:

        @app.post("/bodies")
        async def read(request: Request, _user: CurrentUser) -> int:
            return len(await request.body())

        app.dependency_overrides[current_user] = lambda: User(id=1)
        async with client_of(app) as client:
            assert (await client.post("/bodies", content=b"123")).json() == 3
