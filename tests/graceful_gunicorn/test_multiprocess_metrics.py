"""When workers are replaced, their counters are kept and their files are removed."""

import math
import os
import random
import subprocess
import sys
from errno import ENOSPC
from pathlib import Path

import pytest

from app.infra.observability.metrics import exact
from graceful_gunicorn import registry_of_all_workers
from graceful_gunicorn.multiprocess_metrics import (
    FOLDER,
    MASTER,
    archive_worker,
    begin_metrics,
    end_metrics,
)
from graceful_gunicorn.shared_state import SharedState

WORKER = """
import os
from app.infra.observability import metrics
metrics.POOL_REFUSED.inc(3)
metrics.REQUESTS.labels("GET", "/v1/posts", 200).observe(0.2)
metrics.WORKERS.set(1)
print(os.getpid())
"""


@pytest.fixture
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The folder of the metrics files."""
    monkeypatch.setenv(FOLDER, str(tmp_path / "metrics"))
    monkeypatch.setenv(MASTER, "")
    begin_metrics()
    return tmp_path / "metrics"


def run_worker() -> int:
    """Run a process that increments counters and exits. Return its process id."""
    worker = subprocess.run([sys.executable, "-c", WORKER], capture_output=True, check=True)
    return int(worker.stdout)


def scraped(name: str, **labels: str) -> float | None:
    """Return a sample as a scrape reports it."""
    with registry_of_all_workers() as registry:
        return registry.get_sample_value(name, labels)


def test_counters_of_exited_workers_are_kept_and_their_files_removed(folder: Path) -> None:
    for number in range(1, 4):
        worker = run_worker()
        assert scraped("workers") == 1
        archive_worker(worker)
        assert scraped("database_pool_refused_total") == 3 * number
        labels = {"method": "GET", "route": "/v1/posts", "status": "200"}
        assert scraped("http_request_duration_seconds_count", **labels) == number
        assert scraped("workers") is None
        assert {file.name for file in folder.glob("*.db")} == {
            "counter_archive.db",
            "histogram_archive.db",
        }


def test_sums_do_not_depend_on_the_order_in_which_workers_are_archived() -> None:
    for _ in range(100):
        times = [exact(random.uniform(0, 10)) for _ in range(10)]
        assert sum(times) == sum(sorted(times)) == math.fsum(times)


def test_archiving_a_worker_without_metrics_does_nothing(folder: Path) -> None:
    archive_worker(2**22)
    assert not list(folder.glob("*.db"))


def test_archiving_a_worker_that_was_killed_while_it_created_a_file_succeeds(folder: Path) -> None:
    (folder / "counter_1.db").touch()
    archive_worker(1)
    assert not list(folder.glob("*.db"))


def test_a_scrape_skips_a_file_that_a_worker_has_just_created(folder: Path) -> None:
    run_worker()
    (folder / "counter_1.db").touch()
    assert scraped("database_pool_refused_total") == 3


def test_a_reload_keeps_the_counters(folder: Path) -> None:
    run_worker()
    begin_metrics()  # a reload runs the configuration file again in the same master
    assert scraped("database_pool_refused_total") == 3


def test_a_new_master_starts_with_an_empty_folder_and_removes_it_at_the_end(
    folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    run_worker()
    monkeypatch.setenv(MASTER, "another")
    begin_metrics()
    assert scraped("database_pool_refused_total") is None
    end_metrics()
    assert not folder.exists()


def test_a_folder_that_contains_other_files_is_not_removed(folder: Path) -> None:
    run_worker()
    (folder / "notes.txt").touch()
    end_metrics()
    assert [file.name for file in folder.iterdir()] == ["notes.txt"]


def test_an_error_of_the_archive_is_logged_and_not_raised(
    folder: Path, caplog: pytest.LogCaptureFixture
) -> None:
    folder.rename(folder.with_name("gone"))
    folder.touch()
    archive_worker(1)
    assert "The counters of worker 1 are not in the archive" in caplog.text


def test_the_files_of_an_exited_worker_stay_if_the_disk_has_no_room_for_the_archive(
    folder: Path, caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch
) -> None:
    first, second = run_worker(), run_worker()
    archive_worker(first)

    def fail(descriptor: int, offset: int, size: int) -> None:
        raise OSError(ENOSPC, "No space left on device")

    with monkeypatch.context() as patch:
        patch.setattr(os, "posix_fallocate", fail)
        archive_worker(second)
    assert f"The counters of worker {second} are not in the archive" in caplog.text
    assert scraped("database_pool_refused_total") == 6
    assert not list(folder.glob("*.new"))
    archive_worker(second)
    assert scraped("database_pool_refused_total") == 6
    assert not list(folder.glob(f"*_{second}.db"))


def test_a_scrape_reports_metrics_that_found_no_room(
    folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    state = SharedState()
    monkeypatch.setattr("graceful_gunicorn.collectors.SHARED_STATE", state)
    worker = state.allocate_worker()
    worker.record_missing_metrics(3)
    worker.record_missing_metrics(5)
    assert (scraped("metrics_lost_total"), scraped("metrics_missing")) == (5, 5)
    worker.release()
    assert (scraped("metrics_lost_total"), scraped("metrics_missing")) == (5, 0)
    assert scraped("worker_boots_failed") == 0
    state.record_failed_boot()
    assert scraped("worker_boots_failed") == 1
    state.allocate_worker().record_missing_metrics(2)
    assert (scraped("metrics_lost_total"), scraped("metrics_missing")) == (7, 2)


def test_a_scrape_without_a_readable_folder_reports_the_shared_state(folder: Path) -> None:
    folder.rmdir()
    folder.touch()
    assert scraped("metrics_lost_total") == 0
    assert scraped("workers") is None


def test_a_folder_that_cannot_be_created_is_an_error_that_names_the_variable(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "file").touch()
    monkeypatch.setenv(FOLDER, str(tmp_path / "file" / "metrics"))
    monkeypatch.setenv(MASTER, "")
    with pytest.raises(SystemExit, match=f"{FOLDER}.*Set it to a folder"):
        begin_metrics()


def test_an_empty_variable_means_a_temporary_folder_and_removes_no_other_file(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    (tmp_path / "other.db").touch()
    monkeypatch.setenv(FOLDER, "")
    monkeypatch.setenv(MASTER, "")
    begin_metrics()
    assert (tmp_path / "other.db").exists()
    end_metrics()
