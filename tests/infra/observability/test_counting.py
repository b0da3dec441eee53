"""What is counted straight into the mapped files is what the client library would have counted."""

import json
import os
import random
import signal
import subprocess
import sys
from pathlib import Path

import pytest
from prometheus_client import Counter, Histogram
from prometheus_client.registry import CollectorRegistry

from app.infra.observability.counting import counting, observing
from graceful_gunicorn import registry_of_all_workers
from graceful_gunicorn.multiprocess_metrics import FOLDER

BOUNDS = (0.001, 0.25, 1.0)
# At the bounds, between them and past them.
AMOUNTS = (0.0, 0.001, 0.0015, 0.25, 0.5, 1.0, 7.0)

WORK = """
import json, sys
from prometheus_client import Counter, Histogram
from app.infra.observability.counting import counting, observing

bounds, amounts = json.loads(sys.argv[1])
ours, theirs, counted = (
    Histogram("ours", "", ("label",), buckets=bounds),
    Histogram("theirs", "", ("label",), buckets=bounds),
    Counter("counted", "", ("label",)),
)
observe, count = observing(ours.labels("a")), counting(counted.labels("a"))
for number in range(1_000):  # many more than the file has room for at first
    theirs.labels(str(number))
for amount in amounts:
    observe(amount)
    theirs.labels("a").observe(amount)
    count()
print("counted", flush=True)
sys.stdin.read()
"""


PRELOADED = """
import os
from coherent_cache.reader import Source
from app.infra.observability.counting import counting
from app.infra.observability.request_context import RequestContext
from app.infra.observability.metrics import LOG_DROPPED
from app.infra.web.request_metrics import count_request

for _ in range(2):
    if os.fork() == 0:
        count = counting(LOG_DROPPED)
        for _ in range(100):
            count()
            current = RequestContext("id", "GET", "/")
            current.cache, current.statements = Source.VALKEY, ["SELECT 1"]
            count_request(current)
        os._exit(0)
assert not os.wait()[1] and not os.wait()[1]
"""


@pytest.fixture
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv(FOLDER, str(tmp_path))
    return tmp_path


def samples(name: str) -> dict[str, float | None]:
    """Return the numbers of a histogram, as a scrape tells them."""
    with registry_of_all_workers() as registry:
        metrics = {metric.name: metric for metric in registry.collect()}
    return {
        sample.name.removeprefix(name) + sample.labels.get("le", ""): sample.value
        for sample in metrics[name].samples
        if sample.labels["label"] == "a"
    }


def test_it_is_there_when_the_process_was_killed(folder: Path) -> None:
    amounts = [*AMOUNTS, *(random.uniform(0, 2) for _ in range(100))]
    command = [sys.executable, "-c", WORK, json.dumps([BOUNDS, amounts])]
    with subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE) as worker:
        assert worker.stdout is not None
        assert worker.stdout.readline() == b"counted\n"
        os.kill(worker.pid, signal.SIGKILL)
    assert (folder / f"histogram_{worker.pid}.db").stat().st_size > 65_536
    assert samples("ours") == samples("theirs")
    assert samples("ours")["_count"] == samples("counted")["_total"] == len(amounts)


def test_workers_forked_after_the_import_count_in_files_of_their_own(
    folder: Path,
) -> None:
    subprocess.run([sys.executable, "-c", PRELOADED], check=True)
    with registry_of_all_workers() as registry:
        seen = {
            sample.name: sample.value
            for metric in registry.collect()
            for sample in metric.samples
            if sample.value and "bucket" not in sample.name
        }
    assert seen["log_lines_dropped_total"] == 200
    assert seen["cache_reads_total"] == 200
    assert seen["http_request_statements_count"] == 200
    assert seen["http_request_duration_seconds_count"] == 200


def test_without_files_the_library_counts() -> None:
    assert FOLDER not in os.environ
    registry = CollectorRegistry()
    histogram = Histogram("ours", "", buckets=BOUNDS, registry=registry)
    counter = Counter("counted", "", registry=registry)
    observing(histogram)(0.5)
    counting(counter)()
    assert registry.get_sample_value("ours_bucket", {"le": "1.0"}) == 1
    assert registry.get_sample_value("counted_total") == 1
