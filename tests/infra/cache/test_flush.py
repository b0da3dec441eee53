"""`python -m app.flush_cache`: for rows that were changed behind the service's back."""

import os
import subprocess
import sys
from collections.abc import AsyncIterator
from pathlib import Path

import httpx2
import pytest
from anyio.to_thread import run_sync
from fastapi import FastAPI
from sqlalchemy import text

from app import flush_cache as command
from app.infra.cache.config import cache_config
from app.infra.cache.settings import ValkeySettings
from app.settings import Settings
from coherent_cache import NotFlushed, flush_cache
from tests.application import client_of
from tests.cached_app import cache_of, settled, stored
from tests.coherent_cache.worker import eventually
from tests.factories import Factory

Client = httpx2.AsyncClient

PROJECT = Path(__file__).parents[3]
AWAY = "redis://127.0.0.1:1/0"


@pytest.fixture
async def client(service: FastAPI, clean: None) -> AsyncIterator[Client]:
    await settled(service)
    async with client_of(service) as client:
        yield client


@pytest.fixture
def make(service: FastAPI, clean: None) -> Factory:
    return Factory(service.state.resources)


@pytest.fixture
async def url(client: Client, service: FastAPI, make: Factory) -> str:
    """The address of a cached post that was changed by hand."""
    post = await make.post()
    await settled(service)
    url = f"/v1/posts/{post.id}"
    await client.get(url)
    async with make.resources.database.transaction() as session:
        await session.execute(text("UPDATE posts SET title = 'By hand'"))
    assert (await client.get(url)).json()["title"] == "A title"
    return url


def environment(settings: Settings, **values: str) -> dict[str, str]:
    return {
        **os.environ,
        "DATABASE_URL": settings.database.url.get_secret_value(),
        "VALKEY_URL": settings.valkey.url.get_secret_value(),
        "CACHE_NAMESPACE": settings.cache.namespace,
        **values,
    }


async def run(settings: Settings, **values: str) -> subprocess.CompletedProcess[str]:
    """Run the command as a person would."""

    def run_it() -> subprocess.CompletedProcess[str]:
        return subprocess.run(
            [sys.executable, "-m", "app.flush_cache"],
            cwd=PROJECT,
            env=environment(settings, **values),
            capture_output=True,
            text=True,
            timeout=60,
            check=False,
            encoding="utf-8",
        )

    return await run_sync(run_it)


async def test_the_command_empties_the_cache_of_every_worker(
    client: Client, service: FastAPI, settings: Settings, url: str
) -> None:
    store = cache_of(service).store
    await store._valkey.set("another's", b"stays")
    assert cache_of(service).memory.get(f"{url}?") is not None
    done = await run(settings)
    assert (done.returncode, done.stderr) == (0, "")
    assert done.stdout.startswith("The cache is empty: ")
    assert not await stored(service)
    assert [key async for key in store._valkey.scan_iter(f"{store.prefix}*")] == []
    assert await store._valkey.getdel("another's") == b"stays"
    await eventually(lambda: cache_of(service).memory.get(f"{url}?") is None)
    response = await client.get(url)
    assert (response.headers["x-cache"], response.json()["title"]) == ("MISS", "By hand")


async def test_another_namespace_is_left_alone(
    client: Client, service: FastAPI, settings: Settings, url: str
) -> None:
    done = await run(settings, CACHE_NAMESPACE="another-one")
    assert (done.returncode, done.stdout) == (0, "The cache is empty: 0 keys were removed.\n")
    await settled(service)
    assert (await client.get(url)).headers["x-cache"] == "HIT-L1"


async def test_the_command_says_that_valkey_was_not_reached(settings: Settings) -> None:
    done = await run(settings, VALKEY_URL=AWAY)
    assert (done.returncode, done.stdout) == (1, "")
    [sentence] = done.stderr.splitlines()
    assert "Valkey was not reached" in sentence
    assert f"{settings.cache.ttl_seconds:g} s at most" in sentence
    assert "VALKEY_URL" in sentence


async def test_the_command_says_that_there_is_no_cache(settings: Settings) -> None:
    done = await run(settings, CACHE_ENABLED="false", VALKEY_URL=AWAY)
    assert (done.returncode, done.stdout) == (1, "")
    assert done.stderr == "CACHE_ENABLED is false: there is no cache to empty.\n"


async def test_a_flush_tells_how_many_keys_there_were(
    service: FastAPI, settings: Settings, url: str
) -> None:
    store = cache_of(service).store
    keys = [key async for key in store._valkey.scan_iter(f"{store.prefix}*")]
    assert await flush_cache(cache_config(settings.valkey, settings.cache)) == len(keys) > 0
    assert await flush_cache(cache_config(settings.valkey, settings.cache)) == 0


async def test_a_flush_of_a_valkey_that_is_away_is_told(settings: Settings) -> None:
    away = ValkeySettings.model_validate({"url": AWAY})
    with pytest.raises(NotFlushed, match="Check VALKEY_URL"):
        await flush_cache(cache_config(away, settings.cache))


async def test_the_command_ends_with_the_sentence(
    settings: Settings, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    for name, value in environment(settings).items():
        monkeypatch.setenv(name, value)
    await run_sync(command.main)
    assert capsys.readouterr().out == "The cache is empty: 0 keys were removed.\n"
    monkeypatch.setenv("VALKEY_URL", AWAY)
    with pytest.raises(SystemExit, match="was not reached"):
        await run_sync(command.main)
    monkeypatch.setenv("CACHE_ENABLED", "false")
    with pytest.raises(SystemExit, match="no cache to empty"):
        await run_sync(command.main)


async def test_a_validator_from_before_a_change_by_hand_is_not_good_after_a_flush(
    client: Client, service: FastAPI, make: Factory
) -> None:
    url = f"/v1/posts/{(await make.post()).id}"
    old = (await client.get(url)).headers["etag"]
    async with make.resources.database.transaction() as session:
        await session.execute(text("UPDATE posts SET title = 'By hand'"))
    await cache_of(service).flush()
    response = await client.get(url, headers={"If-None-Match": old})
    assert (response.status_code, response.json()["title"]) == (200, "By hand")
