"""The parts of `make bench` that need no load, nor the packages that it alone installs."""

import os
import stat
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from benchmarks import load
from benchmarks.arrival import constant_arrival, percentile
from benchmarks.charts import Bars, Chart, Lines
from benchmarks.load import (
    Request,
    children_of,
    cpu_seconds,
    exact_cpu_seconds,
    memory_megabytes,
)
from benchmarks.new_connections import longest_wait
from benchmarks.section import all_sections, name_of, number, ratio, share, table
from benchmarks.sections import idle, middleware, routes
from dev.terminal import CommandError
from tests.upstream_server import open_upstream

WRK = """#!/bin/sh
echo 'RESULT {"requests": %d, "microseconds": 2000000, "refused": %d, "broken": 0, '\\
'"p50": 2000.0, "p95": 3000.0, "p99": 4000.0}'
"""
H2LOAD = """#!/bin/sh
cat <<'END'
requests: 64 total, 64 started, 64 done, %d succeeded, %d failed, 0 errored, 0 timeout
                     min         max         mean         sd        +/- sd
time for request:     2.63ms      3.69ms      2.97ms       390us    71.88%%
time for connect:      108us      1.65ms       846us       428us    59.38%%
time to 1st byte:     %s      3.82ms       755us    60.94%%
END
"""
CHARTS: list[Chart] = [
    Bars("bars", "Some bars", "ms", ["a", "b"], {"x": [1, 2], "y": [3, 4000]}, log=True),
    Lines("lines", "Some lines", "n", "ms", [1, 10, 100], {"x": [1, 2, 3]}, log_x=True),
]


@pytest.fixture
def fake_wrk(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Put a program on the path that prints what wrk prints."""
    return program_on_path(tmp_path / "wrk", WRK % (1_000, 0), monkeypatch)


def program_on_path(program: Path, script: str, monkeypatch: pytest.MonkeyPatch) -> Path:
    program.write_text(script, encoding="utf-8")
    program.chmod(program.stat().st_mode | stat.S_IXUSR)
    monkeypatch.setenv("PATH", f"{program.parent}:{os.environ['PATH']}")
    return program


def test_every_section_has_what_the_report_needs() -> None:
    sections = all_sections()
    assert len({section.ORDER for section in sections}) == len(sections)
    for section in sections:
        assert section.TITLE
        assert all(callable(getattr(section, name)) for name in ("measure", "figures", "report"))
        assert name_of(section).isidentifier()


def test_missing_tool_is_named_with_its_cure(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PATH", "/nonexistent")
    with pytest.raises(CommandError, match=r"needs wrk.*apt install wrk"):
        load.find_wrk()
    with pytest.raises(CommandError, match=r"needs h2load.*apt install nghttp2-client"):
        longest_wait("http://127.0.0.1:1/", 64)


@pytest.mark.parametrize(
    ("times", "milliseconds"),
    [("2.82ms      5.19ms", 5.19), ("108us       650us", 0.65), ("35.10ms       1.02s", 1_020)],
)
def test_longest_wait_is_in_milliseconds(
    times: str, milliseconds: float, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    program_on_path(tmp_path / "h2load", H2LOAD % (64, 0, times), monkeypatch)
    assert longest_wait("http://127.0.0.1:1/", 64) == pytest.approx(milliseconds)


def test_request_that_fails_is_no_answer(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    script = H2LOAD % (63, 1, "2.82ms      5.19ms")
    program_on_path(tmp_path / "h2load", script, monkeypatch)
    with pytest.raises(CommandError, match="h2load failed"):
        longest_wait("http://127.0.0.1:1/", 64)


def test_rate_counts_the_time_that_wrk_measured(fake_wrk: Path) -> None:
    found = load.measure("http://127.0.0.1:1", Request("/"), server=os.getpid())
    assert (found.rps, found.p50, found.p99, found.refused) == (500, 2, 4, 0)
    assert found.memory > 1


def test_errors_stop_a_measurement_unless_they_are_expected(fake_wrk: Path) -> None:
    fake_wrk.write_text(WRK % (1_000, 250), encoding="utf-8")
    with pytest.raises(CommandError, match="meaningless"):
        load.measure("http://127.0.0.1:1", Request("/"), server=os.getpid())
    found = load.measure("http://127.0.0.1:1", Request("/"), server=os.getpid(), may_refuse=True)
    assert (found.rps, found.refused) == (375, 0.25)


def test_cpu_time_of_children_that_have_ended_is_counted() -> None:
    before = cpu_seconds(os.getpid())
    burn = "import time\nwhile time.process_time() < 0.3: pass"
    subprocess.run([sys.executable, "-c", burn], check=True)
    assert cpu_seconds(os.getpid()) - before >= 0.25
    assert memory_megabytes(os.getpid()) > 1


def test_exact_cpu_time_is_that_of_all_threads_and_of_running_children() -> None:
    burn = "import time\nwhile time.process_time() < 0.3: pass\nprint(flush=True)\ninput()"
    in_thread = f"import threading\nthreading.Thread(target=exec, args=[{burn!r}]).start()"
    before = exact_cpu_seconds(os.getpid())
    command = [sys.executable, "-c", in_thread]
    with subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE) as child:
        assert child.stdout is not None
        child.stdout.readline()
        of_child = exact_cpu_seconds(child.pid)
        assert 0.3 <= of_child <= exact_cpu_seconds(os.getpid()) - before
        assert of_child * 100 % 1  # finer than the ticks of `cpu_seconds`
        assert child.pid in children_of(os.getpid())
        assert children_of(child.pid) == []
        child.communicate(b"\n")
    assert child.pid not in children_of(os.getpid())


async def test_latency_of_constant_arrival_counts_from_when_a_request_was_due() -> None:
    async with open_upstream() as server:
        found = await constant_arrival(server.url, Request("/"), rate=50, seconds=0.5)
    assert (len(found.latencies), found.refused) == (25, 0)
    assert all(latency > 0 for latency in found.latencies)


def test_percentiles() -> None:
    values = [float(value) for value in range(1, 101)]
    assert [percentile(values, one) for one in (0.5, 0.99, 1.0)] == [51, 100, 100]


def test_cost_of_a_layer_is_what_it_adds_to_the_stack_without_it() -> None:
    stacks = {"none": 5.0, "request id": 8.0, "access log": 12.0, "catch all": 13.0}
    stacks |= {"upload queue": 15.0, "body limit": 20.0, "rate limits": 95.0}
    stacks |= {"cached response": 24.0, "base http": 105.0}
    figures = middleware.figures({"rounds": 1, "stacks": stacks})
    assert figures["middleware.body-limit.cpu"] == "5.0 µs"
    assert figures["middleware.rate-limits-in-valkey.cpu"] == "80.0 µs"
    assert figures["middleware.cached-response.cpu"] == "11.0 µs"
    assert figures["middleware.request-id.cpu"] == "3.0 µs"
    assert figures["middleware.observing.cpu"] == "7.0 µs"
    assert figures["middleware.base-http.cpu"] == "100 µs"


def test_cpu_of_a_route_is_compared_with_that_of_the_route_alone() -> None:
    data = {"one": {"cpu": 150.0}, "plain": {"cpu": 165.0}}
    figures = routes.figures(data)
    assert (figures["routes.plain.cpu"], figures["routes.plain.ratio"]) == ("165 µs", "1.10×")
    assert "| 40 routes of its feature, without parameters | 165 | 1.10 |" in routes.report(data)


def test_cpu_of_idle_workers_is_that_of_all_workers_and_of_one() -> None:
    data = {"workers": 9.0, "all": 9.25, "postgres": 1.0, "valkey": 1.5}
    figures = idle.figures(data)
    assert (figures["idle.workers.cpu"], figures["idle.worker.cpu"]) == ("9.0 ms", "4.5 ms")
    assert (figures["idle.postgres.cpu"], figures["idle.valkey.cpu"]) == ("1.0 ms", "1.5 ms")
    assert "| one worker | 4.5 |" in idle.report(data)


@pytest.mark.parametrize("chart", CHARTS, ids=lambda chart: str(chart.name))
def test_plots_are_the_same_bytes_for_the_same_data(tmp_path: Path, chart: Any) -> None:
    pytest.importorskip("matplotlib")
    from benchmarks.plots import draw

    found = []
    for _ in range(2):
        draw(chart, tmp_path)
        found.append([path.read_bytes() for path in sorted(tmp_path.glob("*.svg"))])
    assert found[0] == found[1]
    assert len(found[0]) == 2
    assert b"<dc:date>" not in found[0][0]


def test_numbers_are_written_for_readers() -> None:
    assert [number(value) for value in (12_345.6, 99.95, 4.25, 0.123)] == [
        "12,346",
        "100.0",
        "4.2",
        "0.12",
    ]
    assert (ratio(3.14), ratio(1_234.5), share(0.123)) == ("3.1×", "1,234×", "12 %")
    assert table(("a", "b"), [["1", "2"]]) == "| a | b |\n| --- | --- |\n| 1 | 2 |"
