"""Puts load on a server with wrk, and reads what it took: requests a second, CPU, latencies."""

import http.client
import json
import os
import shutil
import subprocess
import tempfile
import time
from collections.abc import Iterable, Mapping
from contextlib import suppress
from dataclasses import asdict, dataclass, fields
from pathlib import Path
from statistics import median

from dev.terminal import CommandError

CONNECTIONS = 64
PROBES, PROBE_SECONDS = 20, 0.5
ATTEMPTS = 3  # other programs may disturb a round
TICKS = os.sysconf("SC_CLK_TCK")
# wrk runs `done` at the end. Its latencies are in microseconds.
SCRIPT = """
wrk.method = os.getenv("BENCH_METHOD")
wrk.body = os.getenv("BENCH_BODY")
function done(summary, latency, requests)
   io.write(string.format(
      '\\nRESULT {"requests": %d, "microseconds": %d, "refused": %d, "broken": %d, '
      .. '"p50": %f, "p95": %f, "p99": %f}\\n',
      summary.requests, summary.duration, summary.errors.status,
      summary.errors.connect + summary.errors.read + summary.errors.write + summary.errors.timeout,
      latency:percentile(50), latency:percentile(95), latency:percentile(99)))
end
"""


@dataclass(frozen=True)
class Sample:
    """One round. CPU is in microseconds for a request, of all processes of the server.

    Latencies are in milliseconds, memory in megabytes. `rps` counts responses that are no errors,
    and `refused` is the share of errors.
    """

    rps: float
    p50: float
    p95: float
    p99: float
    cpu: float
    postgres: float
    memory: float
    refused: float


@dataclass(frozen=True)
class Request:
    """What the clients send. `script` is Lua for wrk, with a function `request`."""

    path: str
    method: str = "GET"
    headers: Mapping[str, str] | None = None
    body: str = ""
    script: str = ""


def find_wrk() -> str:
    """Return where wrk is."""
    return find_tool("wrk", "wrk")


def find_tool(name: str, package: str) -> str:
    """Return the path of a program. `package` is its package in Debian."""
    found = shutil.which(name)
    if found is None:
        raise CommandError(
            f"The benchmark needs {name}. Install it with your package manager, for example: "
            f"apt install {package}"
        )
    return found


def measure(
    url: str,
    request: Request,
    *,
    server: int,
    postgres: int | None = None,
    seconds: float = 2,
    connections: int = CONNECTIONS,
    may_refuse: bool = False,
) -> Sample:
    """Keep some connections busy. `server` and `postgres` are the roots of their processes."""
    for _ in range(ATTEMPTS):
        before = cpu_seconds(server), cpu_seconds(postgres)
        found = run_wrk(url, request, seconds, connections)
        used = cpu_seconds(server) - before[0], cpu_seconds(postgres) - before[1]
        count = found["requests"]
        if count and not found["broken"] and (may_refuse or not found["refused"]):
            break
        if not count:  # a server that blocks may be slower than a round
            seconds *= 3
    else:
        raise CommandError(
            f"{request.method} {url}{request.path}: {found}. Errors make the figures meaningless. "
            "The service refuses requests when it cannot answer in 2 s: is the machine busy?"
        )
    return Sample(
        rps=(count - found["refused"]) / found["microseconds"] * 1e6,
        p50=found["p50"] / 1e3,
        p95=found["p95"] / 1e3,
        p99=found["p99"] / 1e3,
        cpu=used[0] / count * 1e6,
        postgres=used[1] / count * 1e6,
        memory=memory_megabytes(server),
        refused=found["refused"] / count,
    )


def probe(url: str, request: Request) -> float:
    """Send some requests, one after the other, and return how many seconds one of them took."""
    connection = http.client.HTTPConnection(url.removeprefix("http://"), timeout=60)
    headers, body = dict(request.headers or {}), request.body.encode() or None
    started = taken = time.monotonic()
    seconds = list[float]()
    while len(seconds) < PROBES and taken - started < PROBE_SECONDS:
        connection.request(request.method, request.path or "/", body, headers)
        response = connection.getresponse()
        answer = response.read()
        if response.status >= 400:
            raise CommandError(f"{request.method} {url}{request.path}: {answer[:500]!r}")
        seconds.append(time.monotonic() - taken)
        taken = time.monotonic()
    connection.close()
    return median(seconds)


def run_wrk(url: str, request: Request, seconds: float, connections: int) -> dict[str, float]:
    """Run wrk once, and return what its script prints."""
    headers = [f"{name}: {value}" for name, value in (request.headers or {}).items()]
    with tempfile.NamedTemporaryFile("w", suffix=".lua", encoding="utf-8") as script:
        script.write(SCRIPT + request.script)
        script.flush()
        command = [find_wrk(), "-t1", f"-c{connections}", f"-d{max(1, round(seconds))}s"]
        command += ["--timeout", "60s", "-s", script.name]
        command += [part for header in headers for part in ("-H", header)]
        run = subprocess.run(
            [*command, url + request.path],
            env=os.environ | {"BENCH_METHOD": request.method, "BENCH_BODY": request.body},
            capture_output=True,
            check=False,
            encoding="utf-8",
        )
    _, found, result = run.stdout.partition("RESULT ")
    if not found:
        raise CommandError(f"wrk failed:\n{run.stdout}{run.stderr}")
    parsed: dict[str, float] = json.loads(result)
    return parsed


def median_of(samples: Iterable[Sample]) -> Sample:
    """Return the median of each figure."""
    rows = [asdict(sample) for sample in samples]
    return Sample(**{one.name: median(row[one.name] for row in rows) for one in fields(Sample)})


def cpu_seconds(root: int | None) -> float:
    """Return the CPU time of a process and its descendants, including those that have ended."""
    while True:
        family = _family(root)
        seconds = sum(_seconds_of(number) for number in family)
        # If a child ended during the sum, its time is missing: it now counts as its parent's, and
        # the parent was read first. So read all of them again.
        if _family(root) == family:
            return seconds


def exact_cpu_seconds(root: int) -> float:
    """Return the CPU time of a process and its descendants that run, to the nanosecond.

    The times of `cpu_seconds` are in steps of 0.01 s, which is too coarse for idle processes.
    """
    total = 0
    for number in _family(root):
        for thread in Path(f"/proc/{number}/task").glob("*/schedstat"):
            with suppress(OSError):  # it has ended
                total += int(thread.read_text(encoding="ascii").split()[0])
    return total / 1e9


def children_of(parent: int) -> list[int]:
    """Return the processes that a process has started, and that have not ended."""
    return _children().get(parent, [])


def memory_megabytes(root: int) -> float:
    """Return the memory of a process and its descendants. What they share is counted once."""
    total = 0
    for number in _family(root):
        with suppress(OSError):
            rollup = Path(f"/proc/{number}/smaps_rollup").read_text(encoding="ascii")
            total += int(rollup.partition("\nPss:")[2].split()[0])
    return total / 1024


def _stat(number: int) -> list[str]:
    """Return the fields of /proc/PID/stat after the name, or none if the process has ended."""
    with suppress(OSError):
        stat = Path(f"/proc/{number}/stat").read_text(encoding="utf-8", errors="replace")
        return stat.rpartition(")")[2].split()
    return []


def _seconds_of(number: int) -> float:
    """Return the time of a process, and of those of its children that it has waited for."""
    fields_of = _stat(number)
    return sum(map(int, fields_of[11:15])) / TICKS if fields_of else 0.0


def _family(root: int | None) -> list[int]:
    """Return the process and its descendants."""
    if root is None:
        return []
    children = _children()
    family = [root]
    for number in family:
        family += children.get(number, [])
    return family


def _children() -> dict[int, list[int]]:
    """Return the children of each process."""
    children: dict[int, list[int]] = {}
    for folder in Path("/proc").glob("[0-9]*"):
        if found := _stat(int(folder.name)):
            children.setdefault(int(found[1]), []).append(int(folder.name))
    return children
