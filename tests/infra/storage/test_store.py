"""The store for files: a folder here. A store that does not answer is told from a missing file."""

import asyncio
import errno
import os
import time
from pathlib import Path
from typing import Any

import pytest

from app.errors import Unavailable
from app.infra import breaker
from app.infra.storage.opening import delete_unfinished, open_store
from app.infra.storage.settings import StorageSettings
from app.infra.storage.store import MIB, ObjectStore
from app.settings import Settings

KEY = "test/one"
AWAY = StorageSettings.model_validate(
    {
        "bucket": "test-bucket",
        "endpoint": "http://127.0.0.1:1",
        "access_key_id": "id",
        "secret_access_key": "key",
        "timeout_seconds": 5,
    }
)


@pytest.fixture
def store(tmp_path: Path) -> ObjectStore:
    return open_store(StorageSettings(folder=tmp_path / "objects", timeout_seconds=30))


async def test_object_is_stored_read_and_deleted(store: ObjectStore) -> None:
    await store.put(KEY, b"0123456789")
    assert await store.size(KEY) == 10
    assert await store.read(KEY, 3, 4) == b"3456"
    await store.put(KEY, b"new")
    assert await store.read(KEY, 0, 3) == b"new"
    assert await store.check() == "ok"
    await store.delete(KEY)
    await store.delete(KEY)
    assert await store.check() == "ok"
    assert await store.size(KEY) is None
    assert await store.read(KEY, 0, 3) is None


async def test_object_that_is_written_in_pieces_exists_at_the_end(store: ObjectStore) -> None:
    async with store.writer(KEY) as write:
        for _ in range(20):
            await write(b"x" * 1_000_000)
            assert await store.size(KEY) is None
    assert await store.size(KEY) == 20_000_000


async def test_object_whose_writer_fails_does_not_exist(store: ObjectStore, tmp_path: Path) -> None:
    with pytest.raises(KeyError):
        async with store.writer(KEY) as write:
            await write(b"x" * 20_000_000)
            raise KeyError
    assert await store.size(KEY) is None
    assert not [path for path in tmp_path.rglob("*") if path.is_file()]


class SlowWriter:
    """Takes longer for a part than other calls may take, and never drops its parts."""

    def __init__(self) -> None:
        self.has_ended = False

    async def write(self, _content: bytes) -> None:
        await asyncio.sleep(0.3)

    async def close(self) -> None:
        await asyncio.sleep(0.3)
        self.has_ended = True

    async def __aexit__(self, *_: object) -> None:
        await asyncio.Event().wait()


async def test_parts_may_take_longer_and_dropping_them_does_not_wait_for_ever(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    writer = SlowWriter()
    monkeypatch.setattr("app.infra.storage.store.open_writer_async", lambda *_, **__: writer)
    store = open_store(StorageSettings(folder=tmp_path, timeout_seconds=0.2))
    async with store.writer(KEY) as write:
        await write(b"x")
    assert writer.has_ended
    with pytest.raises(KeyError):
        async with store.writer(KEY):
            raise KeyError


def test_file_that_is_completed_while_unfinished_ones_are_deleted(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    gone = tmp_path / "one#1"
    monkeypatch.setattr(Path, "rglob", lambda *_: iter([gone]))
    delete_unfinished(StorageSettings(folder=tmp_path))


def test_what_killed_processes_left_is_deleted(tmp_path: Path) -> None:
    for name, age in (("one#1", 100_000), ("two#1", 10), ("three", 100_000)):
        (tmp_path / name).write_bytes(b"x")
        then = time.time() - age
        os.utime(tmp_path / name, (then, then))
    delete_unfinished(StorageSettings(folder=tmp_path))
    assert sorted(path.name for path in tmp_path.iterdir()) == ["three", "two#1"]


async def calls(store: ObjectStore) -> list[str]:
    """Call everything, and return what was raised."""

    async def write() -> None:
        async with store.writer(KEY) as write:
            await write(b"x")

    raised = []
    for call in (
        store.put(KEY, b"x"),
        store.size(KEY),
        store.read(KEY, 0, 1),
        store.delete(KEY),
        write(),
    ):
        try:
            await call
        except Unavailable as error:
            raised.append(error.detail)
    return raised


async def test_store_that_is_away_is_unavailable(caplog: pytest.LogCaptureFixture) -> None:
    store = open_store(AWAY)
    assert await calls(store) == ["The store for files does not answer."] * 5
    assert await store.check() == "unavailable"
    assert "correct the settings STORAGE_" in caplog.text


async def test_bucket_that_does_not_exist_is_unavailable() -> None:
    """S3 answers 404 to everything then. Only a read cannot tell that from a missing object."""

    async def refuse(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        await reader.readuntil(b"\r\n\r\n")
        writer.write(b"HTTP/1.1 404 Not Found\r\nContent-Length: 0\r\nConnection: close\r\n\r\n")
        await writer.drain()
        writer.close()

    async def write() -> None:
        async with opened().writer(KEY) as write:
            for _ in range(20):
                await write(b"x" * MIB)

    def opened() -> ObjectStore:
        return open_store(AWAY.model_copy(update={"endpoint": address}))

    server = await asyncio.start_server(refuse, "127.0.0.1", 0)
    address = "http://{}:{}".format(*server.sockets[0].getsockname())
    for call in (opened().put(KEY, b"x"), write(), opened().delete(KEY)):
        with pytest.raises(Unavailable):
            await call
    assert await calls(opened()) == ["The store for files does not answer."] * 3
    assert await opened().check() == "unavailable"
    assert await opened().size(KEY) is None
    server.close()


async def test_store_that_does_not_answer_is_asked_no_more() -> None:
    """Its first calls take their time limit. The others fail at once."""

    async def hang(_reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        asked.append(writer)

    asked: list[asyncio.StreamWriter] = []
    server = await asyncio.start_server(hang, "127.0.0.1", 0)
    address = "http://{}:{}".format(*server.sockets[0].getsockname())
    changed = {"endpoint": address, "timeout_seconds": 0.2}
    store = open_store(AWAY.model_copy(update=changed))
    for _ in range(4):
        assert len(await calls(store)) == 5
    assert len(asked) <= 18  # three reads, three writes and three deletions, with a retry of each
    server.close()
    for writer in asked:
        writer.close()


async def test_store_that_takes_no_files_is_read_as_before(
    store: ObjectStore, monkeypatch: pytest.MonkeyPatch
) -> None:
    async def fail(*_: object, **__: object) -> None:
        raise OSError(errno.ENOSPC, "No space left on device")

    await store.put(KEY, b"content")
    monkeypatch.setattr("app.infra.storage.store.put_async", fail)
    for _ in range(2 * breaker.FAILURES_TO_OPEN):
        with pytest.raises(Unavailable):
            await store.put("test/two", b"x")
    assert await store.size(KEY) == 7
    assert await store.read(KEY, 0, 7) == b"content"
    await store.delete(KEY)
    assert await store.size(KEY) is None


async def test_without_a_store_nothing_can_be_kept(caplog: pytest.LogCaptureFixture) -> None:
    store = open_store(StorageSettings())
    assert await calls(store) == ["This service has no store for files."] * 5
    assert await store.check() == "not used"
    assert "Set STORAGE_BUCKET" in caplog.text


async def test_folder_that_cannot_be_used_is_logged(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    (tmp_path / "file").write_bytes(b"x")
    monkeypatch.setattr(os, "access", lambda *_: False)
    for folder in (tmp_path / "file" / "below", tmp_path):
        caplog.clear()
        store = open_store(StorageSettings(folder=folder))
        assert len(await calls(store)) == 5
        assert await store.check() == "unavailable"
        assert "STORAGE_FOLDER cannot be used" in caplog.text


@pytest.mark.parametrize(
    ("values", "sentence"),
    [
        ({"bucket": "No/bucket"}, "the name of an S3 bucket"),
        ({"access_key_id": "a"}, "STORAGE_SECRET_ACCESS_KEY belong together"),
        ({"secret_access_key": "a"}, "STORAGE_SECRET_ACCESS_KEY belong together"),
    ],
)
def test_settings_that_contradict_each_other_are_refused(
    values: dict[str, Any], sentence: str
) -> None:
    with pytest.raises(ValueError, match=sentence):
        StorageSettings.model_validate(values)


def test_folder_of_one_machine_is_refused_for_several_instances() -> None:
    production = {"environment": "production", "auth": {"secret": "x" * 40}, "replicas": 2}
    folder = {"folder": "/objects"}
    with pytest.raises(ValueError, match="STORAGE_FOLDER is a folder of one machine"):
        Settings.model_validate({**production, "storage": folder})
    for storage in ({**folder, "folder_shared": True}, {**folder, "bucket": "a-bucket"}, {}):
        assert Settings.model_validate({**production, "storage": storage})
    assert Settings.model_validate({**production, "replicas": 1, "storage": folder})
