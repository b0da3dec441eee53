"""Failed logins are limited by account and by address; successful ones by address alone."""

import asyncio

import httpx2
import pytest

from app.settings import Settings
from tests.features.users.factory import PASSWORD, UserFactory
from tests.infra.web.test_rate_limit import client_at, limited

pytestmark = pytest.mark.usefixtures("clean")
Client = httpx2.AsyncClient


async def log_in(client: Client, email: str, password: str = "a wrong password") -> int:
    form = {"username": email, "password": password}
    return (await client.post("/v1/auth/token", data=form)).status_code


async def test_failures_for_one_account_are_limited_whatever_their_address(
    settings: Settings,
) -> None:
    async with limited(settings, password_failures=5) as app:
        make = UserFactory(app.state.resources)
        ann, bob = await make.user(), await make.user()
        clients = [client_at(app, f"203.0.113.{number}") for number in range(200)]
        found = await asyncio.gather(*(log_in(client, ann.email) for client in clients))
        assert sorted(found) == [400] * 5 + [429] * 195
        # The lock-out that docs/how-to/rate-limit.md describes: also the right password is refused.
        assert await log_in(clients[0], ann.email, PASSWORD) == 429
        assert await log_in(clients[0], bob.email, PASSWORD) == 200


async def test_an_unknown_account_has_the_same_limit(settings: Settings) -> None:
    async with limited(settings, password_failures=2) as app, client_at(app) as client:
        make = UserFactory(app.state.resources)
        for email in ((await make.user()).email, "nobody@example.com"):
            form = {"username": email, "password": "a wrong password"}
            responses = [await client.post("/v1/auth/token", data=form) for _ in range(3)]
            assert [one.status_code for one in responses] == [400, 400, 429], email
            refused = responses[-1]
            assert refused.json()["detail"] == "Too many requests. Try again in 43200 s."
            assert refused.headers["ratelimit-policy"] == '"password_failures";q=2;w=86400'
            assert refused.headers["ratelimit"] == '"password_failures";r=0;t=43200'


async def test_a_success_does_not_count(settings: Settings) -> None:
    async with limited(settings, password_failures=2) as app, client_at(app) as client:
        email = (await UserFactory(app.state.resources).user()).email
        for _ in range(5):
            assert await log_in(client, email, PASSWORD) == 200
        assert [await log_in(client, email) for _ in range(3)] == [400, 400, 429]


@pytest.mark.parametrize("write", [str.upper, str.title])
async def test_another_case_is_the_same_account(settings: Settings, write: object) -> None:
    async with limited(settings, password_failures=1) as app, client_at(app) as client:
        email = (await UserFactory(app.state.resources).user()).email
        assert await log_in(client, email) == 400
        assert await log_in(client, write(email), PASSWORD) == 429  # type: ignore[operator]


async def test_logins_of_one_address_are_limited_whatever_their_accounts(
    settings: Settings,
) -> None:
    async with limited(settings, logins=3) as app:
        async with client_at(app) as client:
            found = [await log_in(client, f"{number}@example.com") for number in range(4)]
            assert found == [400, 400, 400, 429]
        async with client_at(app, "203.0.113.1") as other:
            assert await log_in(other, "0@example.com") == 400


async def test_guesses_of_the_current_password_count_as_failed_logins(settings: Settings) -> None:
    async with limited(settings, password_failures=2) as app:
        make = UserFactory(app.state.resources)
        ann = await make.user()
        async with client_at(app, headers=make.headers(ann)) as client:
            change = {"password": "another password", "current_password": "a wrong password"}
            found = [(await client.patch("/v1/users/me", json=change)) for _ in range(3)]
            assert [one.status_code for one in found] == [403, 403, 429]
            assert await log_in(client, ann.email, PASSWORD) == 429


async def test_registrations_of_one_address_are_limited(settings: Settings) -> None:
    async with limited(settings, registrations=2) as app, client_at(app) as client:
        account = {"name": "Ann", "password": PASSWORD}
        found = [
            (
                await client.post("/v1/users", json={**account, "email": f"a{n}@example.com"})
            ).status_code
            for n in range(3)
        ]
        assert found == [201, 201, 429]
