"""`python -m app.flush_cache` empties the cache after rows were changed by hand."""

import os
import subprocess
import sys
from pathlib import Path

import httpx2
import pytest
from anyio.to_thread import run_sync
from fastapi import FastAPI
from sqlalchemy import text

from app import flush_cache as command
from app.settings import Settings
from tests.cached_app import cache_of, settled, stored
from tests.coherent_cache.worker import eventually
from tests.sample.factory import NoteFactory

Client = httpx2.AsyncClient

PROJECT = Path(__file__).parents[3]
NOWHERE = "redis://127.0.0.1:1/0"


CHANGE_BY_HAND = text("UPDATE test_notes SET title = 'By hand'")


@pytest.fixture
async def url(client: Client, service: FastAPI, make: NoteFactory) -> str:
    """The path of a cached note that was changed by hand."""
    note = await make.note()
    await settled(service)
    url = f"/test/notes/{note.id}"
    await client.get(url)
    async with make.resources.database.transaction() as session:
        await session.execute(CHANGE_BY_HAND)
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
    """Run the command in a process of its own."""

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


async def test_command_empties_the_cache_of_every_worker(
    client: Client, service: FastAPI, settings: Settings, url: str
) -> None:
    store = cache_of(service).store
    await store._valkey.set("another", b"stays")
    assert cache_of(service).memory.get(f"{url}?") is not None
    done = await run(settings)
    assert (done.returncode, done.stderr) == (0, "")
    assert done.stdout.startswith("The cache is empty: ")
    assert not await stored(service)
    assert [key async for key in store._valkey.scan_iter(f"{store.prefix}*")] == []
    assert await store._valkey.getdel("another") == b"stays"
    await eventually(lambda: cache_of(service).memory.get_copy(f"{url}?") is None)
    response = await client.get(url)
    assert (response.headers["x-cache"], response.json()["title"]) == ("MISS", "By hand")


async def test_command_leaves_other_namespaces_alone(
    client: Client, service: FastAPI, settings: Settings, url: str
) -> None:
    done = await run(settings, CACHE_NAMESPACE="another-one")
    assert (done.returncode, done.stdout) == (0, "The cache is empty: 0 keys were removed.\n")
    await settled(service)
    assert (await client.get(url)).headers["x-cache"] == "HIT-L1"


async def test_command_reports_an_unreachable_valkey(settings: Settings) -> None:
    done = await run(settings, VALKEY_URL=NOWHERE)
    assert (done.returncode, done.stdout) == (1, "")
    [sentence] = done.stderr.splitlines()
    assert "Valkey was not reached" in sentence
    assert f"{settings.cache.ttl_seconds:g} s at most" in sentence
    assert "VALKEY_URL" in sentence


async def test_command_reports_that_caching_is_switched_off(settings: Settings) -> None:
    done = await run(settings, CACHE_ENABLED="false", VALKEY_URL=NOWHERE)
    assert (done.returncode, done.stdout) == (1, "")
    assert done.stderr == "CACHE_ENABLED is false, so there is no cache to empty.\n"


async def test_command_exits_with_its_message(
    settings: Settings, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    for name, value in environment(settings).items():
        monkeypatch.setenv(name, value)
    await run_sync(command.main)
    assert capsys.readouterr().out == "The cache is empty: 0 keys were removed.\n"
    monkeypatch.setenv("VALKEY_URL", NOWHERE)
    with pytest.raises(SystemExit, match="was not reached"):
        await run_sync(command.main)
    monkeypatch.setenv("CACHE_ENABLED", "false")
    with pytest.raises(SystemExit, match="no cache to empty"):
        await run_sync(command.main)


async def test_etag_from_before_a_change_by_hand_is_not_accepted_after_a_flush(
    client: Client, service: FastAPI, make: NoteFactory
) -> None:
    url = f"/test/notes/{(await make.note()).id}"
    old = (await client.get(url)).headers["etag"]
    async with make.resources.database.transaction() as session:
        await session.execute(CHANGE_BY_HAND)
    await cache_of(service).flush()
    response = await client.get(url, headers={"If-None-Match": old})
    assert (response.status_code, response.json()["title"]) == (200, "By hand")
