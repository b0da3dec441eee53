"""Workers come and go; what they counted stays, and their files do not."""

import math
import os
import random
import subprocess
import sys
from errno import ENOSPC
from pathlib import Path

import pytest

from app.infra.metrics import exact
from app.infra.server.load_table import LoadTable
from app.infra.server.metrics_files import (
    FOLDER,
    MASTER,
    archive_worker,
    begin_metrics,
    end_metrics,
)
from app.infra.web.metrics_endpoint import registry_of_all

WORK = """
import os
from app.infra import metrics
metrics.POOL_REFUSED.inc(3)
metrics.REQUESTS.labels("GET", "/v1/posts", 200).observe(0.2)
metrics.WORKERS.set(1)
print(os.getpid())
"""


@pytest.fixture
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv(FOLDER, str(tmp_path / "metrics"))
    monkeypatch.setenv(MASTER, "")
    begin_metrics()
    return tmp_path / "metrics"


def run_a_worker() -> int:
    """Count in a process of its own, and return its id."""
    worker = subprocess.run([sys.executable, "-c", WORK], capture_output=True, check=True)
    return int(worker.stdout)


def value(name: str, **labels: str) -> float | None:
    """Return what a scrape tells."""
    with registry_of_all() as registry:
        return registry.get_sample_value(name, labels)


def test_counters_of_the_dead_are_kept_and_their_files_are_not(folder: Path) -> None:
    for number in range(1, 4):
        worker = run_a_worker()
        assert value("workers") == 1
        archive_worker(worker)
        assert value("database_pool_refused_total") == 3 * number
        labels = {"method": "GET", "route": "/v1/posts", "status": "200"}
        assert value("http_request_duration_seconds_count", **labels) == number
        assert value("workers") is None
        assert {file.name for file in folder.glob("*.db")} == {
            "counter_archive.db",
            "histogram_archive.db",
        }


def test_no_sum_falls_when_the_dead_are_added_in_another_order() -> None:
    for _ in range(100):
        times = [exact(random.uniform(0, 10)) for _ in range(10)]
        assert sum(times) == sum(sorted(times)) == math.fsum(times)


def test_a_worker_that_counted_nothing_is_no_matter(folder: Path) -> None:
    archive_worker(2**22)
    assert not list(folder.glob("*.db"))


def test_a_worker_that_was_killed_as_it_made_a_file_does_not_take_the_master_along(
    folder: Path,
) -> None:
    (folder / "counter_1.db").touch()
    archive_worker(1)
    assert not list(folder.glob("*.db"))


def test_a_scrape_while_a_worker_makes_a_file_tells_of_the_others(folder: Path) -> None:
    run_a_worker()
    (folder / "counter_1.db").touch()
    assert value("database_pool_refused_total") == 3


def test_a_reload_keeps_what_was_counted(folder: Path) -> None:
    run_a_worker()
    begin_metrics()  # by the same master
    assert value("database_pool_refused_total") == 3


def test_a_master_begins_at_nothing_and_leaves_nothing(
    folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    run_a_worker()
    monkeypatch.setenv(MASTER, "another")
    begin_metrics()
    assert value("database_pool_refused_total") is None
    end_metrics()
    assert not folder.exists()


def test_a_folder_with_something_of_the_operators_stays(folder: Path) -> None:
    run_a_worker()
    (folder / "notes.txt").touch()
    end_metrics()
    assert [file.name for file in folder.iterdir()] == ["notes.txt"]


def test_numbers_that_cannot_be_kept_do_not_take_the_master_along(
    folder: Path, caplog: pytest.LogCaptureFixture
) -> None:
    folder.rename(folder.with_name("gone"))
    folder.touch()
    archive_worker(1)
    assert "The counters of worker 1 are not in the archive" in caplog.text


def test_without_room_for_the_archive_a_dead_workers_files_stay(
    folder: Path, caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch
) -> None:
    first, second = run_a_worker(), run_a_worker()
    archive_worker(first)

    def refuse(descriptor: int, offset: int, size: int) -> None:
        raise OSError(ENOSPC, "No space left on device")

    with monkeypatch.context() as patch:
        patch.setattr(os, "posix_fallocate", refuse)
        archive_worker(second)
    assert f"The counters of worker {second} are not in the archive" in caplog.text
    assert value("database_pool_refused_total") == 6
    assert not list(folder.glob("*.new"))
    archive_worker(second)
    assert value("database_pool_refused_total") == 6
    assert not list(folder.glob(f"*_{second}.db"))


def test_a_scrape_tells_what_found_no_room(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    table = LoadTable()
    monkeypatch.setattr("app.infra.web.metrics_endpoint.TABLE", table)
    row = table.take_row()
    row.note_missing(3)
    row.note_missing(5)
    assert (value("metrics_lost_total"), value("metrics_missing")) == (5, 5)
    row.leave()
    assert (value("metrics_lost_total"), value("metrics_missing")) == (5, 0)
    assert value("worker_boots_failed") == 0
    table.note_failed_boot()
    assert value("worker_boots_failed") == 1
    table.take_row().note_missing(2)
    assert (value("metrics_lost_total"), value("metrics_missing")) == (7, 2)


def test_a_scrape_without_a_folder_tells_what_it_can(folder: Path) -> None:
    folder.rmdir()
    folder.touch()
    assert value("metrics_lost_total") == 0
    assert value("workers") is None


def test_a_folder_that_cannot_be_is_refused_by_name(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "file").touch()
    monkeypatch.setenv(FOLDER, str(tmp_path / "file" / "metrics"))
    monkeypatch.setenv(MASTER, "")
    with pytest.raises(SystemExit, match=f"{FOLDER}.*Set it to a folder"):
        begin_metrics()


def test_an_empty_name_is_no_name_and_no_file_of_others_is_removed(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    (tmp_path / "other.db").touch()
    monkeypatch.setenv(FOLDER, "")
    monkeypatch.setenv(MASTER, "")
    begin_metrics()
    assert (tmp_path / "other.db").exists()
    end_metrics()
