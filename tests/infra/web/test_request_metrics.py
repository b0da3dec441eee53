"""Requests are counted in the metrics files, where other processes find the numbers."""

import os
import signal
import subprocess
import sys
from pathlib import Path

import pytest

from graceful_gunicorn import registry_of_all_workers
from graceful_gunicorn.multiprocess_metrics import FOLDER

COUNT = """
from app.infra.observability.request_context import RequestContext
from app.infra.web.request_metrics import count_request
from coherent_cache import Source

def count(requests):
    for number in range(requests):
        current = RequestContext("id", "GET", f"/{number}")
        current.route, current.status, current.seconds = "/test/notes", 200, 0.5
        current.cache, current.statements = Source.VALKEY, ["SELECT 1", "SELECT 2"]
        count_request(current)
"""
WAIT = """
import sys

count(100)
print("counted", flush=True)
sys.stdin.read()
"""
FORK = """
import os

count(1)
for _ in range(2):
    if os.fork() == 0:
        count(100)
        os._exit(0)
assert not os.wait()[1] and not os.wait()[1]
"""


@pytest.fixture(autouse=True)
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Give the test an empty folder for metrics files."""
    monkeypatch.setenv(FOLDER, str(tmp_path))


def assert_counted(requests: int) -> None:
    value = registry_of_all_workers().get_sample_value
    labels = {"method": "GET", "route": "/test/notes", "status": "200"}
    duration = "http_request_duration_seconds"
    assert value(f"{duration}_bucket", {**labels, "le": "0.25"}) == 0
    assert value(f"{duration}_bucket", {**labels, "le": "0.5"}) == requests
    assert value(f"{duration}_count", labels) == requests
    assert value(f"{duration}_sum", labels) == requests / 2
    assert value("http_request_statements_count") == requests
    assert value("http_request_statements_sum") == 2 * requests
    assert value("cache_reads_total", {"result": "hit"}) == requests


def test_requests_that_a_killed_process_counted_are_not_lost() -> None:
    command = [sys.executable, "-c", COUNT + WAIT]
    with subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE) as worker:
        assert worker.stdout is not None
        assert worker.stdout.readline() == b"counted\n"
        os.kill(worker.pid, signal.SIGKILL)
    assert_counted(100)


def test_each_forked_process_counts_in_files_of_its_own() -> None:
    subprocess.run([sys.executable, "-c", COUNT + FORK], check=True)
    assert_counted(201)
