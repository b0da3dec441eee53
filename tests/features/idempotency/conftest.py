"""Fixtures for the tests of `idempotency`: an application with routes of all kinds."""

from collections.abc import AsyncIterator

import httpx2
import pytest
from fastapi import FastAPI

from app.features.users.models import User
from app.infra.resources import ProcessResources
from app.settings import Settings
from tests.application import client_of, running
from tests.features.idempotency import routes
from tests.features.idempotency.factory import KeyFactory


@pytest.fixture(scope="module")
async def idempotent(settings: Settings) -> AsyncIterator[FastAPI]:
    async with running(settings) as app:
        app.include_router(routes.router)
        app.include_router(routes.plain_router)
        yield app


@pytest.fixture
async def client(idempotent: FastAPI, clean: None) -> AsyncIterator[httpx2.AsyncClient]:
    routes.reset()
    async with client_of(idempotent) as client:
        yield client


@pytest.fixture
def held(idempotent: FastAPI) -> ProcessResources:
    """The resources of the application that the client calls."""
    resources: ProcessResources = idempotent.state.resources
    return resources


@pytest.fixture
def make(resources: ProcessResources, clean: None) -> KeyFactory:
    return KeyFactory(resources)


@pytest.fixture
async def owner(make: KeyFactory) -> User:
    return await make.user()


@pytest.fixture
def headers(make: KeyFactory, owner: User) -> dict[str, str]:
    """The headers of a request that `owner` makes with a key."""
    return {**make.headers(owner), "Idempotency-Key": "one"}
