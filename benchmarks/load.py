"""Puts load on a server with wrk, and reads what it took: requests a second, CPU, tails."""

import os
import re
import shutil
import subprocess
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path

from dev.terminal import CommandError

CONNECTIONS = 64
TICKS = os.sysconf("SC_CLK_TCK")
UNITS = {"us": 1e-3, "ms": 1.0, "s": 1e3}


@dataclass(frozen=True)
class Sample:
    """One round. CPU is that of all processes of the server."""

    rps: float
    cpu_microseconds: float
    p50_milliseconds: float
    p99_milliseconds: float


def find_wrk() -> str:
    """Return where wrk is."""
    wrk = shutil.which("wrk")
    if wrk is None:
        raise CommandError("The benchmark needs wrk: install it with your package manager.")
    return wrk


def measure(url: str, process_id: int, seconds: int, script: Path | None = None) -> Sample:
    """Keep 64 connections busy for some seconds."""
    command = [find_wrk(), "-t1", f"-c{CONNECTIONS}", f"-d{seconds}s", "--latency"]
    before = _cpu_seconds(process_id)
    run = subprocess.run(
        [*command, *(["-s", str(script)] if script else []), url],
        capture_output=True,
        text=True,
        check=True,
        encoding="utf-8",
    )
    used = _cpu_seconds(process_id) - before
    if failed := re.search(r"(Non-2xx|Socket errors).*", run.stdout):
        raise CommandError(f"{url}: {failed.group(0)}. The figures would mean nothing.")
    requests = float(_find(r"(\d+) requests in", run.stdout))
    return Sample(
        float(_find(r"Requests/sec:\s+([\d.]+)", run.stdout)),
        used / requests * 1e6,
        _milliseconds(_find(r"(?m)^\s+50%\s+(\S+)", run.stdout)),
        _milliseconds(_find(r"(?m)^\s+99%\s+(\S+)", run.stdout)),
    )


def _find(pattern: str, text: str) -> str:
    found = re.search(pattern, text)
    if found is None:
        raise CommandError(f"wrk said something else than expected:\n{text}")
    return found.group(1)


def _milliseconds(text: str) -> float:
    number, unit = re.fullmatch(r"([\d.]+)(us|ms|s)", text).groups()  # type: ignore[union-attr]
    return float(number) * UNITS[unit]


def _cpu_seconds(process_id: int) -> float:
    """Add up the time of a process and of all its descendants."""
    parents: dict[int, int] = {}
    seconds: dict[int, float] = {}
    for stat in Path("/proc").glob("[0-9]*/stat"):
        with suppress(FileNotFoundError, ProcessLookupError):
            fields = stat.read_text(encoding="utf-8").rpartition(")")[2].split()
            number = int(stat.parent.name)
            parents[number] = int(fields[1])
            seconds[number] = (int(fields[11]) + int(fields[12])) / TICKS

    def is_ours(number: int) -> bool:
        return number == process_id or (number in parents and is_ours(parents[number]))

    return sum(seconds[number] for number in parents if is_ours(number))
