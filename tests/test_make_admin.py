"""The command that makes the first administrator."""

import os
import subprocess
import sys

import httpx2
import pytest

from app.features.users import service
from app.features.users.models import User
from app.infra.resources import ProcessResources
from app.settings import Settings
from tests.features.users.factory import UserFactory


def make_admin(settings: Settings, *arguments: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, "-m", "app.make_admin", *arguments],
        env={
            **os.environ,
            "DATABASE_URL": settings.database.url.get_secret_value(),
            "VALKEY_URL": settings.valkey.url.get_secret_value(),
            "CACHE_NAMESPACE": settings.cache.namespace,
        },
        capture_output=True,
        check=False,
        encoding="utf-8",
    )


async def test_account_becomes_an_administrator(
    client: httpx2.AsyncClient, settings: Settings, resources: ProcessResources
) -> None:
    user = await UserFactory(resources).user(email="ann@bücher.example", verified=True)
    done = make_admin(settings, "Ann@xn--bcher-kva.example")  # the same address
    assert done.returncode == 0, done.stderr
    headers = UserFactory(resources).headers(user)
    assert (await client.get("/v1/users/me", headers=headers)).json()["role"] == "admin"


async def test_account_with_an_unverified_address_needs_a_confirmation(
    client: httpx2.AsyncClient, settings: Settings, resources: ProcessResources
) -> None:
    user = await UserFactory(resources).user(email="ann@example.com")
    headers = UserFactory(resources).headers(user)
    refused = make_admin(settings, "ann@example.com")
    assert refused.returncode == 1
    assert "not verified" in refused.stderr
    assert "verified=1" in refused.stderr
    me = (await client.get("/v1/users/me", headers=headers)).json()
    assert (me["role"], me["verified"]) == ("user", False)
    done = make_admin(settings, "ann@example.com", "--verified")
    assert done.returncode == 0, done.stderr
    me = (await client.get("/v1/users/me", headers=headers)).json()
    assert (me["role"], me["verified"]) == ("admin", True)


async def test_disabled_account_does_not_become_an_administrator(
    client: httpx2.AsyncClient, settings: Settings, resources: ProcessResources
) -> None:
    user = await UserFactory(resources).user(email="ann@example.com")
    async with resources.database.transaction() as session:
        session.add(user)
        user.disabled = True
    done = make_admin(settings, "ann@example.com")
    assert done.returncode == 1
    assert "enable it first" in done.stderr
    async with resources.database.read() as session:
        found = await session.get(User, user.id)
        assert found is not None
        assert found.role == "user"


async def test_command_says_what_is_wrong(client: httpx2.AsyncClient, settings: Settings) -> None:
    unknown = make_admin(settings, "nobody@example.com")
    assert unknown.returncode == 1
    assert unknown.stderr == "There is no account with this e-mail address. Register it first.\n"
    assert "Name the account" in make_admin(settings).stderr


@pytest.mark.parametrize("email", ["ann@example.com", "=?utf-8?q?ann?=@example.com"])
async def test_new_administrator_may_act_at_once(
    client: httpx2.AsyncClient, resources: ProcessResources, email: str
) -> None:
    """The second address was stored before today's rules for addresses."""
    make = UserFactory(resources)
    headers = make.headers(await make.user(email=email, verified=True))
    refused = await client.get("/v1/admin/users", headers=headers)
    assert refused.status_code == 403  # the caller is cached from now on
    async with resources.database.transaction() as session:
        await service.make_admin(session, email, is_known=False)
    assert (await client.get("/v1/admin/users", headers=headers)).status_code == 200
