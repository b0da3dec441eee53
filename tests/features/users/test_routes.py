"""The routes of `/v1/users`."""

import asyncio

import httpx2
import pytest
from sqlalchemy import func, select

from app.features.users.models import User
from app.infra.resources import ProcessResources
from app.settings import Settings
from tests.application import client_of, running
from tests.features.users.factory import UserFactory

Client = httpx2.AsyncClient

ANN = {"email": "ann@example.com", "name": "Ann", "password": "correct horse"}


async def test_new_account_is_returned_without_its_password(client: Client) -> None:
    response = await client.post("/v1/users", json=ANN)
    assert response.status_code == 201
    user = response.json()
    assert response.headers["location"] == f"/v1/users/{user['id']}"
    profile = ("id", "name", "bio", "avatar_url", "created_at")
    assert set(user) == {*profile, "email", "role", "verified", "updated_at"}
    assert (user["email"], user["name"]) == (ANN["email"], ANN["name"])


async def test_profile_does_not_show_the_email_address(client: Client, make: UserFactory) -> None:
    user = await make.user(name="Ann")
    response = await client.get(f"/v1/users/{user.id}")
    assert response.status_code == 200
    assert set(response.json()) == {"id", "name", "bio", "avatar_url", "created_at"}


async def test_missing_profile_is_404(client: Client) -> None:
    assert (await client.get("/v1/users/1")).status_code == 404


async def test_me_is_the_caller(client: Client, make: UserFactory) -> None:
    await make.user()
    user = await make.user()
    response = await client.get("/v1/users/me", headers=make.headers(user))
    assert (response.json()["id"], response.json()["email"]) == (user.id, user.email)


async def test_me_needs_a_token(client: Client) -> None:
    response = await client.get("/v1/users/me")
    assert response.status_code == 401
    assert response.headers["www-authenticate"] == "Bearer"


async def test_addresses_are_unique_regardless_of_case(client: Client) -> None:
    await client.post("/v1/users", json=ANN)
    response = await client.post("/v1/users", json={**ANN, "email": "ANN@Example.COM"})
    assert response.status_code == 409
    assert response.json()["code"] == "email_taken"


async def test_one_of_many_concurrent_registrations_gets_the_address(
    settings: Settings, resources: ProcessResources, clean: None
) -> None:
    variants = [ANN["email"], ANN["email"].upper().replace("EXAMPLE.COM", "example.com")] * 10
    # All but one wait for a lock, on a machine that may be busy.
    values = settings.model_dump()
    values["database"] |= {"lock_timeout_seconds": 30, "statement_timeout_seconds": 40}
    values["database"] |= {"command_timeout_seconds": 41}
    patient = Settings.model_validate(values)
    async with running(patient) as app, client_of(app) as client:
        responses = await asyncio.gather(
            *(client.post("/v1/users", json={**ANN, "email": email}) for email in variants)
        )
    assert sorted(response.status_code for response in responses) == [201] + [409] * 19
    codes = {response.json()["code"] for response in responses if response.is_error}
    assert codes == {"email_taken"}
    async with resources.database.read() as session:
        assert await session.scalar(select(func.count()).select_from(User)) == 1


@pytest.mark.parametrize(
    ("field", "value"),
    [
        ("email", "ann"),
        ("email", "ann@"),
        ("email", "=?utf-8?q?ann?=@example.com"),  # which some mail servers take for ann@
        ("email", "a" * 250 + "@example.com"),
        ("email", "an\0n@example.com"),
        ("name", ""),
        ("name", "n" * 101),
        ("password", "1234567"),
        ("password", "p" * 129),
    ],
)
async def test_invalid_account_is_refused(client: Client, field: str, value: object) -> None:
    response = await client.post("/v1/users", json={**ANN, field: value})
    assert response.status_code == 422
    assert response.json()["errors"][0]["loc"] == ["body", field]


@pytest.mark.parametrize("field", ["id", "password_hash", "created_at", "credential_version"])
async def test_read_only_fields_cannot_be_set(client: Client, field: str) -> None:
    response = await client.post("/v1/users", json={**ANN, field: 7})
    assert response.status_code == 422
    assert response.json()["errors"][0]["type"] == "extra_forbidden"
