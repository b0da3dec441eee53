"""Fixtures for the tests of the dashboard."""

from collections.abc import AsyncIterator, Callable
from contextlib import AbstractAsyncContextManager, asynccontextmanager
from typing import Any

import pytest
from fastapi import FastAPI

from app.features.users.models import User
from app.infra.resources import ProcessResources
from app.settings import Settings
from tests.application import running
from tests.features.posts.factory import PostFactory
from tests.upstream_server import UpstreamServer, open_upstream, replies

Open = Callable[..., AbstractAsyncContextManager[FastAPI]]
PATIENT = {"retries": 0, "connect_seconds": 60}  # the machine may be busy


@pytest.fixture
def make(resources: ProcessResources, clean: None) -> PostFactory:
    return PostFactory(resources)


@pytest.fixture
async def owner(make: PostFactory) -> User:
    owner = await make.user()
    await make.posts(3, owner)
    await make.post()  # of somebody else
    return owner


@pytest.fixture
def headers(make: PostFactory, owner: User) -> dict[str, str]:
    """The headers of a request that `owner` makes."""
    return make.headers(owner)


@pytest.fixture
async def profiles() -> AsyncIterator[UpstreamServer]:
    """The other service, with a profile of everybody."""
    async with open_upstream() as server:
        server.answer = replies({"headline": "Counts things", "more": 1})
        yield server


@pytest.fixture
def open_app(settings: Settings) -> Open:
    """Open an application with these settings of the dashboard, and of other sections."""

    @asynccontextmanager
    async def open_with(
        database: dict[str, Any] | None = None,
        limits: dict[str, Any] | None = None,
        **dashboard: Any,
    ) -> AsyncIterator[FastAPI]:
        values = {"part_seconds": 60, "upstream_seconds": 60, **dashboard}
        changed = {
            "database": settings.database.model_copy(update=database or {}),
            "limits": settings.limits.model_copy(update=limits or {}),
            "dashboard": settings.dashboard.model_copy(update=values),
            "http_client": settings.http_client.model_copy(update=PATIENT),
        }
        async with running(settings.model_copy(update=changed)) as app:
            yield app

    return open_with
