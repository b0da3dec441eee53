"""While Valkey refuses invalidations, this service does not answer from its cache."""

import asyncio
import os
from collections.abc import AsyncIterator
from pathlib import Path

import httpx2
import pytest
from fastapi import FastAPI
from pydantic import SecretStr
from redis.asyncio import Redis
from sqlalchemy import text
from sqlalchemy.exc import SQLAlchemyError

from app.errors import Unavailable
from app.features.users import tags
from app.features.users.queries import update_user
from app.infra.database import engine
from app.infra.database.sessions import Database
from app.settings import Settings
from coherent_cache import Cache, invalidate
from coherent_cache import relay as relay_module
from coherent_cache.relay import Relay
from tests.application import running
from tests.cached_app import NO_CACHE, cache_of, patient_app
from tests.coherent_cache.valkey_user import ValkeyUser
from tests.infra.cache.conftest import open_outbox
from tests.sample.factory import NoteFactory
from tests.standby import open_standby

Client = httpx2.AsyncClient

AGE_ROWS = text("UPDATE cache_outbox SET created_at = created_at - interval '5 seconds'")
NEW_NOTE = {"title": "T", "body": "B"}


@pytest.fixture(scope="module")
async def user(worker_id: str) -> AsyncIterator[ValkeyUser]:
    async with Redis.from_url(os.environ["TEST_VALKEY_URL"]) as admin:
        user = ValkeyUser(admin, f"service_{worker_id}")
        await user.allow_all_but()
        yield user
        await user.delete()


@pytest.fixture(scope="module")
async def service(settings: Settings, user: ValkeyUser, worker_id: str) -> AsyncIterator[FastAPI]:
    """An application that uses Valkey as this user, in a namespace of its own."""
    values = settings.model_dump()
    values["valkey"]["url"] = user.url(settings.valkey.url.get_secret_value())
    values["cache"]["namespace"] = f"trust_{worker_id}"
    async with patient_app(Settings.model_validate(values)) as app:
        yield app


@pytest.fixture(autouse=True)
async def all_permissions(user: ValkeyUser) -> AsyncIterator[None]:
    """Return to the user what a test has taken away."""
    yield
    await user.allow_all_but()


@pytest.mark.parametrize("refusal", ["-@scripting", "-@write", "-publish"])
async def test_service_shows_every_change_although_valkey_refuses_invalidations(
    database: Database,
    client: Client,
    make: NoteFactory,
    user: ValkeyUser,
    relay: Relay,
    refusal: str,
) -> None:
    author, deleted = await make.user(), await make.user(name="Doomed")
    url, profile = f"/test/notes/{(await make.note(author)).id}", f"/v1/users/{deleted.id}"
    await relay.run_once()
    token = make.headers(deleted)
    disabled, revoked = await make.user(), await make.user()
    refused = [token, make.headers(disabled), make.headers(revoked)]
    for path in (url, profile):
        await client.get(path)
        assert (await client.get(path)).headers["x-cache"] == "HIT-L1"
    for headers in refused:
        assert (await client.post("/test/notes", json=NEW_NOTE, headers=headers)).is_success

    await user.allow_all_but(refusal)
    edit = await client.patch(url, json={"title": "New"}, headers=make.headers(author))
    assert edit.status_code == 200
    assert (await client.delete("/v1/users/me", headers=token)).status_code == 204
    async with database.transaction() as session:
        await update_user(session, disabled, {"disabled": True})
        await update_user(session, revoked, {"credential_version": 2})
        invalidate(session, tags.user(disabled.id), tags.user(revoked.id))
    async with database.transaction() as session:
        await session.execute(AGE_ROWS)  # as if they had waited for seconds
    await relay.run_once()

    for headers in ({}, NO_CACHE):
        shown = await client.get(url, headers=headers)
        assert (shown.json()["title"], shown.headers["x-cache"]) == ("New", "BYPASS")
    assert "Doomed" not in (await client.get(profile)).text
    for headers in refused:
        assert (await client.post("/test/notes", json=NEW_NOTE, headers=headers)).status_code == 401
    ready = await client.get("/readyz")
    assert ready.status_code == 200
    assert ready.json()["checks"]["cache"].startswith("distrusted: ")
    assert "Error" in ready.json()["checks"]["cache"]

    await user.allow_all_but()
    await relay.run_once()
    assert (await client.get("/readyz")).json()["checks"]["cache"] == "trusted"
    assert (await client.get(url)).json()["title"] == "New"
    assert "Doomed" not in (await client.get(profile)).text
    for headers in refused:
        assert (await client.post("/test/notes", json=NEW_NOTE, headers=headers)).status_code == 401
    assert (await client.get(url)).headers["x-cache"] == "HIT-L1"


async def test_polls_that_wait_for_a_lock_use_one_connection(
    settings: Settings, cache: Cache, database: Database, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(engine, "OUTBOX_COMMAND_SECONDS", 3.0)  # this machine may be busy
    name, backends = f"polls-{os.getpid()}", set[int]()
    found = text("SELECT pid FROM pg_stat_activity WHERE application_name = :name")
    timeouts = {"statement_timeout_seconds": 60, "lock_timeout_seconds": 60}
    patient = settings.database.model_copy(update=timeouts)
    async with (
        open_outbox(patient, settings.cache.namespace, name) as outbox,
        database.transaction() as session,
        database.read() as observer,
    ):
        await session.execute(text("LOCK TABLE cache_outbox IN ACCESS EXCLUSIVE MODE"))
        for _ in range(2):
            with pytest.raises((SQLAlchemyError, Unavailable)) as caught:
                await outbox.poll()
            assert relay_module._is_unavailable(caught.value)
            backends.update(await observer.scalars(found, {"name": name}))
    assert len(backends) == 1


async def test_standby_is_not_polled_and_its_connection_is_closed(
    settings: Settings, service: FastAPI, tmp_path: Path
) -> None:
    url = settings.database.url.get_secret_value()
    name, namespace = f"standby-{os.getpid()}", settings.cache.namespace
    count = f"SELECT count(*) FROM pg_stat_activity WHERE application_name = '{name}'"
    with open_standby(url.replace("postgresql+asyncpg", "postgresql"), tmp_path) as standby:
        there = settings.database.model_copy(update={"url": SecretStr(standby.url(url))})
        async with open_outbox(there, namespace, name) as outbox:
            with pytest.raises(SQLAlchemyError) as caught:
                await outbox.poll()
            assert relay_module._is_unavailable(caught.value)
            async with asyncio.timeout(60):
                while await standby.ask(count):
                    await asyncio.sleep(0.01)
            assert await standby.ask("SELECT pg_promote()")
            assert (await outbox.poll()).is_complete


async def test_cache_is_trusted_at_the_first_request(settings: Settings) -> None:
    async with running(settings) as app:
        assert cache_of(app).trust.holds


async def test_process_starts_without_its_database_and_distrusts_the_cache(
    settings: Settings,
) -> None:
    values = settings.model_dump()
    values["database"] = {"url": "postgresql://a:b@127.0.0.1:1/x"}
    async with running(Settings.model_validate(values)) as app:
        assert not cache_of(app).trust.holds
