"""Who is calling: read once a request, and anew only where that is meant."""

from collections.abc import AsyncIterator
from typing import Annotated

import pytest
from fastapi import Depends, FastAPI

from app.features.users.dependencies import CurrentUser, FreshUser
from app.settings import Settings
from tests.application import client_of, recorded_statements, running
from tests.factories import Factory


async def name(user: CurrentUser) -> str:
    return user.name


async def bio(user: CurrentUser) -> str:
    return user.bio


@pytest.fixture
async def app_of_the_test(settings: Settings) -> AsyncIterator[FastAPI]:
    """The application with routes on which several ask who is calling."""
    async with running(settings) as app:

        @app.get("/shared")
        async def shared(
            user: CurrentUser,
            name: Annotated[str, Depends(name)],
            bio: Annotated[str, Depends(bio)],
        ) -> int:
            return user.id

        @app.get("/fresh")
        async def fresh(user: CurrentUser, again: FreshUser) -> bool:
            return user is again

        yield app


@pytest.mark.parametrize(("path", "reads"), [("/shared", 1), ("/fresh", 2)])
async def test_the_caller_is_read_once_unless_a_fresh_one_is_asked_for(
    app_of_the_test: FastAPI, make: Factory, path: str, reads: int
) -> None:
    headers = make.headers(await make.user())
    async with client_of(app_of_the_test) as client:
        with recorded_statements(app_of_the_test.state.resources) as statements:
            response = await client.get(path, headers=headers)
    assert response.status_code == 200
    assert response.json() is not True
    assert len(statements) == reads, statements
