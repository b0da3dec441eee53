"""Refresh tokens: each works once, and a second use revokes the whole family."""

import asyncio
from datetime import timedelta
from hashlib import sha256

import httpx2
import pytest
from sqlalchemy import func, select, text

from app.features.auth import queries
from app.features.auth.models import RefreshToken
from app.features.users.models import User
from app.infra.jobs.enqueue import enqueue
from app.infra.resources import ProcessResources
from app.infra.security.passwords import PasswordMatch
from app.settings import Settings
from tests.application import client_of, running
from tests.features.users.factory import PASSWORD, UserFactory
from tests.jobs import run_jobs
from tests.locks import waits_for_a_lock

Client = httpx2.AsyncClient


async def log_in(client: Client, user: User) -> str:
    """Return a refresh token of a new family."""
    form = {"username": user.email, "password": PASSWORD}
    token: str = (await client.post("/v1/auth/token", data=form)).json()["refresh_token"]
    return token


async def refresh(client: Client, token: str) -> httpx2.Response:
    return await client.post("/v1/auth/refresh", json={"refresh_token": token})


async def expire_tokens(resources: ProcessResources) -> None:
    """Let every refresh token expire now."""
    async with resources.database.transaction() as session:
        await session.execute(text("UPDATE refresh_tokens SET expires_at = now()"))


async def test_refresh_token_is_exchanged_for_new_tokens(client: Client, make: UserFactory) -> None:
    user = await make.user()
    first = await log_in(client, user)
    response = await refresh(client, first)
    assert response.status_code == 200
    assert response.headers["cache-control"] == "no-store"
    assert response.json()["refresh_token"] != first
    headers = {"Authorization": f"Bearer {response.json()['access_token']}"}
    assert (await client.get("/v1/users/me", headers=headers)).json()["id"] == user.id
    assert (await refresh(client, response.json()["refresh_token"])).status_code == 200


async def test_second_use_revokes_only_its_own_family(client: Client, make: UserFactory) -> None:
    user = await make.user()
    other = await log_in(client, user)
    first = await log_in(client, user)
    second = (await refresh(client, first)).json()["refresh_token"]
    reused = await refresh(client, first)
    assert reused.status_code == 401
    assert reused.headers["content-type"] == "application/problem+json"
    assert (await refresh(client, second)).status_code == 401
    assert (await refresh(client, other)).status_code == 200


@pytest.mark.slow
async def test_concurrent_uses_revoke_the_family_and_at_most_one_succeeds(
    client: Client, make: UserFactory, resources: ProcessResources
) -> None:
    first = await log_in(client, await make.user())
    second = (await refresh(client, first)).json()["refresh_token"]
    responses = await asyncio.gather(*(refresh(client, token) for token in [second, first] * 5))
    assert sum(response.status_code == 200 for response in responses) <= 1
    async with resources.database.read() as session:
        assert await session.scalar(select(func.count()).select_from(RefreshToken)) == 0


@pytest.mark.parametrize("token", ["", "nonsense", "é", "x" * 128])
async def test_unknown_token_is_401(client: Client, token: str) -> None:
    assert (await refresh(client, token)).status_code == 401


async def test_logout_revokes_the_family_and_can_be_repeated(
    client: Client, make: UserFactory
) -> None:
    first = await log_in(client, await make.user())
    second = (await refresh(client, first)).json()["refresh_token"]
    for token in (first, second, "nonsense"):
        response = await client.post("/v1/auth/logout", json={"refresh_token": token})
        assert (response.status_code, response.content) == (204, b"")
    assert (await refresh(client, second)).status_code == 401


async def test_expired_refresh_token_is_401(
    client: Client, make: UserFactory, resources: ProcessResources
) -> None:
    expired = await log_in(client, await make.user())
    await expire_tokens(resources)
    assert (await refresh(client, expired)).status_code == 401


async def test_job_deletes_only_expired_tokens(
    client: Client, make: UserFactory, resources: ProcessResources
) -> None:
    user = await make.user()
    await log_in(client, user)
    await expire_tokens(resources)
    tokens = [await log_in(client, user) for _ in range(2)]
    async with resources.database.transaction() as session:
        await enqueue(session, "auth.delete_expired_tokens")
    await run_jobs(resources)
    async with resources.database.read() as session:
        assert await session.scalar(select(func.count()).select_from(RefreshToken)) == 2
    for token in tokens:
        assert (await refresh(client, token)).status_code == 200


async def test_tokens_are_stored_as_hashes(
    client: Client, make: UserFactory, resources: ProcessResources
) -> None:
    token = await log_in(client, await make.user())
    async with resources.database.read() as session:
        row = (await session.execute(text("SELECT refresh_tokens::text FROM refresh_tokens"))).one()
    assert token not in str(row)
    assert token.encode().hex() not in str(row)


async def test_login_updates_a_password_hash_with_old_parameters(
    settings: Settings, make: UserFactory
) -> None:
    user = await make.user()
    stronger = settings.auth.model_copy(update={"argon2_time_cost": 2})
    changed = settings.model_copy(update={"auth": stronger})
    async with running(changed) as app, client_of(app) as client:
        for _ in range(2):
            assert (await refresh(client, await log_in(client, user))).status_code == 200
        async with app.state.resources.database.read() as session:
            stored = await session.get_one(User, user.id)
    assert stored.password_hash != user.password_hash
    assert ",t=2," in stored.password_hash
    assert stored.updated_at == user.updated_at


async def test_revocation_includes_a_token_that_is_added_concurrently(
    client: Client, make: UserFactory, resources: ProcessResources
) -> None:
    first = await log_in(client, await make.user())
    second = (await refresh(client, first)).json()["refresh_token"]
    async with resources.database.transaction() as session:
        family = await queries.consume_token(session, sha256(second.encode()).digest())
        assert family is not None
        reuse = asyncio.create_task(refresh(client, first))
        await waits_for_a_lock(resources)  # the second use waits for the row of `second`
        await queries.insert_token(session, family, b"third", timedelta(days=1))
    assert (await reuse).status_code == 401
    async with resources.database.read() as session:
        assert await session.scalar(select(func.count()).select_from(RefreshToken)) == 0


async def test_expired_tokens_are_deleted_although_they_are_more_than_a_batch(
    client: Client, make: UserFactory, resources: ProcessResources, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(queries, "EXPIRED_BATCH_SIZE", 2)
    user = await make.user()
    for _ in range(5):
        await log_in(client, user)
    await expire_tokens(resources)
    kept = await log_in(client, user)
    async with resources.database.transaction() as session:
        await enqueue(session, "auth.delete_expired_tokens")
    await run_jobs(resources)
    async with resources.database.read() as session:
        assert await session.scalar(select(func.count()).select_from(RefreshToken)) == 1
    assert (await refresh(client, kept)).status_code == 200


async def test_login_while_the_account_is_deleted_leaves_no_token(
    client: Client, make: UserFactory, resources: ProcessResources, monkeypatch: pytest.MonkeyPatch
) -> None:
    user = await make.user()
    verify = resources.passwords.verify

    async def verify_and_delete(password: str, encoded: str | None) -> PasswordMatch:
        match = await verify(password, encoded)
        await client.delete("/v1/users/me", headers=make.headers(user))
        return match

    monkeypatch.setattr(resources.passwords, "verify", verify_and_delete)
    form = {"username": user.email, "password": PASSWORD}
    assert (await client.post("/v1/auth/token", data=form)).status_code == 400
    async with resources.database.read() as session:
        assert await session.scalar(select(func.count()).select_from(RefreshToken)) == 0


async def test_login_that_renews_its_hash_does_not_undo_a_new_password(
    settings: Settings, make: UserFactory, monkeypatch: pytest.MonkeyPatch
) -> None:
    user, new = await make.user(), "another password"
    stronger = settings.auth.model_copy(update={"argon2_time_cost": 2})
    changed = settings.model_copy(update={"auth": stronger})
    async with running(changed) as app, client_of(app) as client:
        passwords = app.state.resources.passwords
        rehash = passwords.rehash

        async def rehash_and_change(password: str) -> str | None:
            renewed: str | None = await rehash(password)
            change = {"password": new, "current_password": PASSWORD}
            await client.patch("/v1/users/me", json=change, headers=make.headers(user))
            return renewed

        with monkeypatch.context() as meanwhile:
            meanwhile.setattr(passwords, "rehash", rehash_and_change)
            form = {"username": user.email, "password": PASSWORD}
            await client.post("/v1/auth/token", data=form)
        for password, status in ((PASSWORD, 400), (new, 200)):
            form = {"username": user.email, "password": password}
            assert (await client.post("/v1/auth/token", data=form)).status_code == status
