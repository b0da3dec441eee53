"""When the disk is full, metrics are missing and nothing else fails."""

import errno
import os
import subprocess
import sys
from collections.abc import Iterator
from contextlib import closing
from pathlib import Path

import pytest

from graceful_gunicorn import mapped_file
from graceful_gunicorn.mapped_file import INITIAL_BYTES, MappedFile
from graceful_gunicorn.multiprocess_metrics import FOLDER
from tests.disks import small_file_system

# A worker with one time series per label: many more than the file can hold at first.
WORKER = """
from graceful_gunicorn.mapped_file import MappedFile, use_preallocated_files
use_preallocated_files()
from prometheus_client import Counter, Gauge, Histogram

jobs = Counter("jobs", "Jobs.")
seconds = Histogram("job_seconds", "Seconds of a job.", ["kind"])
for number in range(1_000):
    seconds.labels(f"/{number}").observe(0.1)
    jobs.inc()
Gauge("alive", "Workers.", multiprocess_mode="livesum").set(1)
print(MappedFile.lost_keys)
"""


@pytest.fixture(autouse=True)
def no_lost_keys(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(MappedFile, "lost_keys", 0)


def fail_to_allocate(monkeypatch: pytest.MonkeyPatch, error_number: int) -> None:
    """Make every allocation of disk space fail."""

    def fail(descriptor: int, offset: int, size: int) -> None:
        raise OSError(error_number, os.strerror(error_number))

    monkeypatch.setattr(os, "posix_fallocate", fail)


def values_in(file: Path) -> dict[str, float]:
    """Return the values that a scrape finds in the file."""
    entries = MappedFile.read_all_values_from_file(str(file))
    return {key: value for key, value, _, _ in entries}


def test_disk_space_is_allocated_before_it_is_written(tmp_path: Path) -> None:
    file = tmp_path / "counter_1.db"
    mapped = MappedFile(str(file))
    size = INITIAL_BYTES
    for number in range(3_000):
        mapped.write_value(f"key {number}", number, 0.0)
        status = file.stat()
        assert status.st_blocks * 512 >= status.st_size
        size = max(size, status.st_size)
    mapped.close()
    assert size > INITIAL_BYTES
    assert values_in(file) == {f"key {number}": number for number in range(3_000)}


def test_a_file_that_the_disk_has_no_room_for_loses_its_values(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    fail_to_allocate(monkeypatch, errno.ENOSPC)
    for kind in ("counter", "histogram"):
        mapped = MappedFile(str(tmp_path / f"{kind}_1.db"))
        assert mapped.read_value("key") == (0.0, 0.0)
        mapped.write_value("key", 3.0, 1.0)
        mapped.close()
    assert not any(file.stat().st_size for file in tmp_path.iterdir())
    assert MappedFile.lost_keys == 2
    assert caplog.text.count("No room for metrics") == 1


def test_a_file_that_cannot_grow_keeps_its_values(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    file = tmp_path / "counter_1.db"
    mapped = MappedFile(str(file))
    fail_to_allocate(monkeypatch, errno.ENOSPC)
    for number in range(3_000):
        mapped.write_value(f"key {number}", 1.0, 0.0)
    mapped.write_value("key 0", 2.0, 0.0)
    mapped.write_value("key 2999", 2.0, 0.0)
    assert mapped.read_value("key 0") == (2.0, 0.0)
    found = values_in(file)
    assert found["key 0"] == 2.0
    assert file.stat().st_size == INITIAL_BYTES
    mapped.close()
    assert len(found) + MappedFile.lost_keys == 3_000
    assert caplog.text.count("No room for metrics") == 1


def test_the_next_process_continues_in_the_same_file(tmp_path: Path) -> None:
    file = tmp_path / "counter_1.db"
    for number in range(0, 3_000, 1_000):
        with closing(MappedFile(str(file))) as mapped:
            for key in range(number + 1_000):
                value, _ = mapped.read_value(f"key {key}")
                mapped.write_value(f"key {key}", value + 1, 0.0)
        assert file.stat().st_blocks * 512 >= file.stat().st_size
    assert [values_in(file)[f"key {key}"] for key in (0, 1_000, 2_999)] == [3, 2, 1]


def test_a_hole_in_an_existing_file_is_filled_before_it_is_written(tmp_path: Path) -> None:
    file = tmp_path / "counter_1.db"
    MappedFile(str(file)).close()
    os.truncate(file, 4 * INITIAL_BYTES)
    assert file.stat().st_blocks * 512 < file.stat().st_size
    MappedFile(str(file)).close()
    assert file.stat().st_blocks * 512 >= file.stat().st_size == 4 * INITIAL_BYTES


@pytest.mark.parametrize("error_number", [errno.EOPNOTSUPP, errno.EINVAL])
def test_zeros_are_written_if_the_file_system_cannot_allocate(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, error_number: int
) -> None:
    fail_to_allocate(monkeypatch, error_number)
    mapped = MappedFile(str(tmp_path / "counter_1.db"))
    mapped.write_value("key", 1.0, 0.0)
    mapped.close()
    status = (tmp_path / "counter_1.db").stat()
    assert status.st_blocks * 512 >= status.st_size == INITIAL_BYTES
    assert MappedFile.lost_keys == 0


def test_a_folder_that_was_removed_is_created_again(tmp_path: Path) -> None:
    with closing(MappedFile(str(tmp_path / "gone" / "counter_1.db"))) as mapped:
        mapped.write_value("key", 1.0, 0.0)
    assert values_in(tmp_path / "gone" / "counter_1.db") == {"key": 1.0}


def test_values_are_lost_if_the_folder_is_a_file(tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    MappedFile(str(tmp_path / "file" / "counter_1.db")).write_value("key", 1.0, 0.0)
    assert MappedFile.lost_keys == 1


def test_a_new_process_counts_only_its_own_lost_keys(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(MappedFile, "lost_keys", 7)
    mapped_file._reset_after_fork()
    assert MappedFile.lost_keys == 0


@pytest.fixture
def small_disk(tmp_path: Path) -> Iterator[Path]:
    """A file system with room for three metrics files."""
    with small_file_system(tmp_path / "disk", 3 * INITIAL_BYTES) as place:
        yield place


def test_a_process_survives_a_full_disk(small_disk: Path) -> None:
    """Without the allocation the process dies of SIGBUS, and its return code is -7."""
    worker = subprocess.run(
        [sys.executable, "-c", WORKER],
        env=os.environ | {FOLDER: str(small_disk)},
        capture_output=True,
        check=False,
    )
    assert worker.returncode == 0, worker.stderr
    assert int(worker.stdout) > 0
    assert worker.stderr.count(b"No room for metrics") == 1
