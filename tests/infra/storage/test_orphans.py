"""`python -m app.delete_orphans` lets a job delete files that no row names, after a week."""

import os
import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import pytest
from sqlalchemy import text

from app.infra.resources import ProcessResources
from app.infra.storage import orphans
from app.infra.storage.opening import open_store
from app.infra.storage.settings import StorageSettings
from app.infra.storage.stored_objects import delete_unreferenced, reserve
from app.settings import Settings

LATER = text("UPDATE stored_objects SET check_at = check_at - interval '7 days'")


@pytest.fixture
def stored(resources: ProcessResources, clean: None, tmp_path: Path) -> ProcessResources:
    """The resources of a process with a folder of its own."""
    return replace(resources, objects=open_store(StorageSettings(folder=tmp_path)))


def delete_orphans(settings: Settings, **values: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, "-m", "app.delete_orphans"],
        env={
            **os.environ,
            "DATABASE_URL": settings.database.url.get_secret_value(),
            "VALKEY_URL": settings.valkey.url.get_secret_value(),
            "CACHE_NAMESPACE": settings.cache.namespace,
            **values,
        },
        capture_output=True,
        check=False,
        encoding="utf-8",
    )


async def test_files_without_a_row_are_deleted_after_a_week(
    stored: ProcessResources,
    settings: Settings,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(orphans, "BATCH", 2)
    await reserve(stored.database, "avatars/known.webp", 8 * 86_400)
    orphaned = [f"archives/{number}.zip" for number in range(5)]
    for key in ("avatars/known.webp", *orphaned):
        await stored.objects.put(key, b"x")
    (tmp_path / "archives" / "unfinished.zip#1").write_bytes(b"x")
    assert await orphans.adopt_orphans(stored.database, tmp_path) == 5
    done = delete_orphans(settings, STORAGE_FOLDER=str(tmp_path))
    assert done.stdout == "Files without a row: 0. A job deletes them in 7 days.\n", done.stderr
    await delete_unreferenced(stored.database, stored.objects)
    assert await stored.objects.size(orphaned[0]) == 1
    async with stored.database.transaction() as session:
        await session.execute(LATER)
    await delete_unreferenced(stored.database, stored.objects)
    assert {await stored.objects.size(key) for key in orphaned} == {None}
    assert await stored.objects.size("avatars/known.webp") == 1
    assert (tmp_path / "archives" / "unfinished.zip#1").exists()


def test_command_does_not_look_at_a_bucket(settings: Settings) -> None:
    done = delete_orphans(settings, STORAGE_BUCKET="test-bucket")
    assert (done.returncode, done.stdout) == (1, "")
    assert "not kept in a folder" in done.stderr


def test_command_says_what_is_wrong(settings: Settings, tmp_path: Path) -> None:
    (tmp_path / "file").write_bytes(b"x")
    nowhere = "postgresql://app@127.0.0.1:1/app"
    done = delete_orphans(settings, STORAGE_FOLDER=str(tmp_path), DATABASE_URL=nowhere)
    assert done.returncode == 1
    assert "Files without a row could not be looked for" in done.stderr
