"""Metrics that find no room on the disk are missing, and nothing else happens."""

import errno
import os
import subprocess
import sys
from collections.abc import Iterator
from contextlib import closing
from pathlib import Path

import pytest

from app.infra import mapped_file
from app.infra.mapped_file import FIRST_BYTES, MappedFile
from app.infra.server.metrics_files import FOLDER
from tests.disks import small_file_system

# One child for each label: many more than the file has room for at first.
WORK = """
import os, signal, sys
from app.infra import metrics
from app.infra.counting import counting, observing
from app.infra.mapped_file import MappedFile

count = counting(metrics.LOG_DROPPED)
for number in range(1_000):
    observing(metrics.REQUESTS.labels("GET", f"/{number}", 200))(0.1)
    count()
metrics.WORKERS.set(1)
print(MappedFile.lost)
"""


@pytest.fixture(autouse=True)
def none_lost(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(MappedFile, "lost", 0)


def refuse(monkeypatch: pytest.MonkeyPatch, number: int) -> None:
    """Let the disk refuse to allocate."""

    def fail(descriptor: int, offset: int, size: int) -> None:
        raise OSError(number, os.strerror(number))

    monkeypatch.setattr(os, "posix_fallocate", fail)


def kept(file: Path) -> dict[str, float]:
    """Return what a scrape finds in the file."""
    entries = MappedFile.read_all_values_from_file(str(file))
    return {key: value for key, value, _, _ in entries}


def test_a_file_has_all_of_its_pages_before_they_are_written(tmp_path: Path) -> None:
    file = tmp_path / "counter_1.db"
    numbers = MappedFile(str(file))
    size = FIRST_BYTES
    for number in range(3_000):
        numbers.write_value(f"key {number}", number, 0.0)
        status = file.stat()
        assert status.st_blocks * 512 >= status.st_size
        size = max(size, status.st_size)
    numbers.close()
    assert size > FIRST_BYTES
    assert kept(file) == {f"key {number}": number for number in range(3_000)}


def test_without_room_for_a_file_numbers_stay_in_memory(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    refuse(monkeypatch, errno.ENOSPC)
    for kind in ("counter", "histogram"):
        numbers = MappedFile(str(tmp_path / f"{kind}_1.db"))
        assert numbers.read_value("key") == (0.0, 0.0)
        numbers.write_value("key", 3.0, 1.0)
        assert numbers.read_value("key") == (3.0, 1.0)
        numbers.close()
    assert not list(tmp_path.iterdir())
    assert MappedFile.lost == 2
    assert caplog.text.count("No room for metrics") == 1


def test_without_room_to_grow_the_file_keeps_what_it_has(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    file = tmp_path / "counter_1.db"
    numbers = MappedFile(str(file))
    refuse(monkeypatch, errno.ENOSPC)
    for number in range(3_000):
        numbers.write_value(f"key {number}", 1.0, 0.0)
    numbers.write_value("key 0", 2.0, 0.0)
    numbers.write_value("key 2999", 2.0, 0.0)
    assert numbers.read_value("key 2999") == (2.0, 0.0)
    assert not numbers.is_complete
    found = kept(file)
    assert found["key 0"] == 2.0
    assert file.stat().st_size == FIRST_BYTES
    numbers.close()
    assert len(found) + MappedFile.lost == 3_000
    assert caplog.text.count("No room for metrics") == 1


@pytest.mark.parametrize("number", [errno.EOPNOTSUPP, errno.EINVAL])
def test_a_disk_that_cannot_allocate_is_written_to_instead(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, number: int
) -> None:
    refuse(monkeypatch, number)
    numbers = MappedFile(str(tmp_path / "counter_1.db"))
    numbers.write_value("key", 1.0, 0.0)
    numbers.close()
    status = (tmp_path / "counter_1.db").stat()
    assert status.st_blocks * 512 >= status.st_size == FIRST_BYTES
    assert MappedFile.lost == 0


def test_a_folder_that_was_removed_is_made_again(tmp_path: Path) -> None:
    with closing(MappedFile(str(tmp_path / "gone" / "counter_1.db"))) as numbers:
        numbers.write_value("key", 1.0, 0.0)
    assert kept(tmp_path / "gone" / "counter_1.db") == {"key": 1.0}


def test_a_folder_that_is_a_file_means_no_metrics(tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    MappedFile(str(tmp_path / "file" / "counter_1.db")).write_value("key", 1.0, 0.0)
    assert MappedFile.lost == 1


def test_a_worker_counts_what_it_lost_itself(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(MappedFile, "lost", 7)
    mapped_file._begin_anew()
    assert MappedFile.lost == 0


@pytest.fixture
def small_disk(tmp_path: Path) -> Iterator[Path]:
    """A file system with room for three files of metrics."""
    with small_file_system(tmp_path / "disk", 3 * FIRST_BYTES) as place:
        yield place


def test_a_process_outlives_a_full_disk(small_disk: Path) -> None:
    """Without the allocation it dies of SIGBUS, which is an exit code of -7."""
    worker = subprocess.run(
        [sys.executable, "-c", WORK],
        env=os.environ | {FOLDER: str(small_disk)},
        capture_output=True,
        check=False,
    )
    assert worker.returncode == 0, worker.stderr
    assert int(worker.stdout) > 0
    assert worker.stderr.count(b"No room for metrics") == 1
