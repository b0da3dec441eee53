"""Whose token is accepted. CurrentUser is looked up once for each request, FreshUser each time."""

from collections.abc import AsyncIterator
from typing import Annotated, Any

import httpx2
import pytest
from fastapi import Depends, FastAPI

from app.features.users.dependencies import CurrentUser, FreshUser
from app.settings import Settings
from coherent_cache.reader import Answer, Reader
from tests.application import client_of, recorded_statements, running
from tests.features.users.factory import UserFactory


async def name(user: CurrentUser) -> str:
    return user.name


async def email(user: FreshUser) -> str:
    return user.email


@pytest.fixture
async def app_of_the_test(settings: Settings) -> AsyncIterator[FastAPI]:
    """The application with routes whose dependencies need the caller several times."""
    async with running(settings) as app:

        @app.get("/shared")
        async def shared(user: CurrentUser, name: Annotated[str, Depends(name)]) -> list[str]:
            return [user.name, name]

        @app.get("/fresh")
        async def fresh(user: FreshUser, email: Annotated[str, Depends(email)]) -> list[str]:
            return [user.email, email]

        yield app


@pytest.fixture
def looked_up(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """The keys that are looked up in the cache."""
    keys: list[str] = []
    read = Reader.read

    async def recorded(reader: Reader, key: str, *rest: Any, **options: Any) -> Answer:
        keys.append(key)
        return await read(reader, key, *rest, **options)

    monkeypatch.setattr(Reader, "read", recorded)
    return keys


async def test_current_user_is_looked_up_once(
    app_of_the_test: FastAPI, make: UserFactory, looked_up: list[str]
) -> None:
    user = await make.user()
    async with client_of(app_of_the_test) as client:
        response = await client.get("/shared", headers=make.headers(user))
    assert response.json() == [user.name, user.name]
    assert len(looked_up) == 1


async def test_fresh_user_is_read_from_the_database_each_time(
    app_of_the_test: FastAPI, make: UserFactory, looked_up: list[str]
) -> None:
    user = await make.user()
    async with client_of(app_of_the_test) as client:
        with recorded_statements(app_of_the_test.state.resources) as statements:
            response = await client.get("/fresh", headers=make.headers(user))
    assert response.json() == [user.email, user.email]
    assert len(statements) == 2, statements
    assert not looked_up


async def test_deleted_account_is_refused_by_its_tokens_of_every_release(
    client: httpx2.AsyncClient, make: UserFactory
) -> None:
    """A token of an earlier release has no version, so the deletion does not revoke it."""
    user = await make.user()
    earlier = make.resources.access_tokens.issue(user.id, None)  # type: ignore[arg-type]
    tokens: list[dict[str, str]] = [make.headers(user), {"Authorization": f"Bearer {earlier}"}]
    (await client.delete("/v1/users/me", headers=tokens[0])).raise_for_status()
    note = {"title": "T", "body": "B"}
    for headers in tokens:
        for refused in (
            await client.get("/v1/users/me", headers=headers),
            await client.post("/test/notes", json=note, headers=headers),
        ):
            assert refused.status_code == 401
            assert refused.json()["detail"] == "The account of this access token has been deleted."
