"""When workers are replaced, their counters go on and the folder does not grow."""

import os
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from graceful_gunicorn import registry_of_all_workers
from graceful_gunicorn.multiprocess_metrics import (
    FOLDER,
    MASTER,
    begin_metrics,
    end_metrics,
    remove_live_gauges,
)
from graceful_gunicorn.shared_state import SharedState

WORKER = """
import os, sys
from graceful_gunicorn.mapped_file import name_process, use_preallocated_files
from graceful_gunicorn.multiprocess_metrics import files_name
use_preallocated_files()
name_process(files_name(int(sys.argv[1])))
from prometheus_client import Counter, Gauge, Histogram

jobs = Counter("jobs", "Jobs.")
jobs.inc(float(sys.argv[2]))
Histogram("job_seconds", "Seconds of a job.", ["kind"]).labels("mail").observe(0.2)
Gauge("alive", "Workers.", multiprocess_mode="livesum").set(1)
if "fork" in sys.argv:
    if os.fork() == 0:
        jobs.inc(10)
        os._exit(0)
    os.wait()
    jobs.inc()
"""


@pytest.fixture
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The folder of the metrics files."""
    monkeypatch.setenv(FOLDER, str(tmp_path / "metrics"))
    monkeypatch.setenv(MASTER, "")
    begin_metrics()
    return tmp_path / "metrics"


def run_worker(slot: int = 0, jobs: float = 3, *arguments: str) -> None:
    """Run a process that counts some jobs and exits."""
    command = [sys.executable, "-c", WORKER, str(slot), str(jobs), *arguments]
    subprocess.run(command, check=True)


def scraped(name: str, **labels: str) -> float | None:
    """Return a sample as a scrape reports it."""
    return registry_of_all_workers().get_sample_value(name, labels)


def test_counters_go_on_in_the_files_of_the_slot(folder: Path) -> None:
    for number in range(1, 4):
        run_worker(slot=1)
        assert scraped("alive") == 1
        remove_live_gauges(1)
        assert scraped("jobs_total") == 3 * number
        assert scraped("job_seconds_count", kind="mail") == number
        assert scraped("alive") is None
        assert {file.name for file in folder.iterdir()} == {
            "counter_worker-1.db",
            "histogram_worker-1.db",
        }


def test_a_scrape_sums_all_workers(folder: Path) -> None:
    run_worker(0)
    run_worker(1)
    assert (scraped("jobs_total"), scraped("alive")) == (6, 2)


def test_a_process_that_a_worker_forks_has_files_of_its_own(folder: Path) -> None:
    run_worker(0, 3, "fork")
    assert scraped("jobs_total") == 14
    assert len(list(folder.glob("counter_*.db"))) == 2


def test_a_sum_does_not_depend_on_the_order_in_which_the_folder_lists_the_files(
    folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Otherwise rounding could make a counter fall, which Prometheus takes for a restart."""
    for slot, jobs in enumerate((0.1, 0.2, 0.3)):
        run_worker(slot, jobs)
    files = sorted(folder.glob("*.db"))

    def listed(order: list[Path]) -> Iterator[Path]:
        return iter(order)

    sums = set()
    for order in (files, files[::-1], files[1:] + files[:1], files[2:] + files[:2]):
        monkeypatch.setattr(Path, "glob", lambda _folder, _pattern, order=order: listed(order))
        sums.add(scraped("jobs_total"))
    assert len(sums) == 1


def test_a_worker_without_metrics_leaves_nothing_to_remove(folder: Path) -> None:
    remove_live_gauges(7)
    assert not list(folder.iterdir())


def test_without_a_folder_there_is_nothing_to_remove() -> None:
    assert FOLDER not in os.environ
    remove_live_gauges(0)


def test_a_file_that_a_worker_has_just_created_is_skipped_and_used_by_the_next_worker(
    folder: Path,
) -> None:
    run_worker(0)
    (folder / "counter_worker-1.db").touch()
    assert scraped("jobs_total") == 3
    run_worker(1)
    assert scraped("jobs_total") == 6


def test_a_reload_keeps_the_counters(folder: Path) -> None:
    run_worker()
    begin_metrics()  # a reload runs the configuration file again in the same master
    assert scraped("jobs_total") == 3


def test_a_new_master_starts_with_an_empty_folder_and_removes_it_at_the_end(
    folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    run_worker()
    monkeypatch.setenv(MASTER, "another")
    begin_metrics()
    assert scraped("jobs_total") is None
    end_metrics()
    assert not folder.exists()


def test_a_folder_that_contains_other_files_is_not_removed(folder: Path) -> None:
    run_worker()
    (folder / "notes.txt").touch()
    end_metrics()
    assert [file.name for file in folder.iterdir()] == ["notes.txt"]


def test_an_error_in_the_master_is_logged_and_not_raised(
    folder: Path, caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch
) -> None:
    def fail(path: str) -> None:
        raise PermissionError(13, "Permission denied")

    run_worker(0)
    monkeypatch.setattr(os, "remove", fail)
    remove_live_gauges(0)
    assert "The gauges of a worker that has exited cannot be removed" in caplog.text


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
    assert scraped("alive") is None


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
