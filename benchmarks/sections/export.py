"""Exports: the service, and two exports as they are often written, under the same server."""

import http.client
import time
from collections.abc import Mapping, Sequence
from pathlib import Path
from statistics import median
from typing import NamedTuple
from urllib.parse import urlsplit

import psutil

from benchmarks.section import Data, number, table
from benchmarks.world import Server, Target, World, service
from dev.service import GUNICORN

ORDER = 8
TITLE = "Exports"

PEERS = (*GUNICORN, "benchmarks.export_peers:app")
SERVICE = "the service"
EXPORTS: dict[str, dict[str, tuple[str, dict[str, str]]]] = {
    "JSON Lines": {
        SERVICE: ("/v1/posts/export", {}),
        "asyncpg by hand": ("/asyncpg/json", {}),
        "SQLAlchemy's ORM": ("/orm/json", {}),
    },
    "CSV": {
        SERVICE: ("/v1/posts/export", {"Accept": "text/csv"}),
        "asyncpg by hand": ("/asyncpg/csv", {}),
        "SQLAlchemy's ORM": ("/orm/csv", {}),
    },
    "JSON Lines, gzip": {SERVICE: ("/v1/posts/export", {"Accept-Encoding": "gzip"})},
    "JSON Lines, zstd": {SERVICE: ("/v1/posts/export", {"Accept-Encoding": "zstd"})},
    "CSV, zstd": {SERVICE: ("/v1/posts/export", {"Accept": "text/csv", "Accept-Encoding": "zstd"})},
}
NAMES = {SERVICE: "service", "asyncpg by hand": "asyncpg", "SQLAlchemy's ORM": "orm"}


class Sample(NamedTuple):
    """One export. The CPU time and the memory are those of the worker."""

    rows_per_second: float
    cpu_microseconds: float
    bytes_of_row: float
    megabytes: float


def sample(server: Server, path: str, headers: Mapping[str, str], rows: int) -> Sample:
    """Export everything once. The caller knows the number of rows."""
    [master] = psutil.Process(server.process_id).children()
    [worker] = master.children()
    before, cpu = worker.memory_info().rss, sum(worker.cpu_times()[:2])
    Path(f"/proc/{worker.pid}/clear_refs").write_text("5", encoding="ascii")  # resets the peak
    started, received = time.perf_counter(), 0
    connection = http.client.HTTPConnection(urlsplit(server.url).netloc, timeout=600)
    connection.request("GET", path, headers=headers)
    response = connection.getresponse()
    assert response.status == 200, response.read()
    while data := response.read(1 << 18):  # raises an error if the response is incomplete
        received += len(data)
    connection.close()
    seconds = time.perf_counter() - started
    status = Path(f"/proc/{worker.pid}/status").read_text(encoding="ascii")
    peak = int(status.partition("VmHWM:")[2].split()[0]) * 1024
    used = sum(worker.cpu_times()[:2]) - cpu
    return Sample(rows / seconds, used / rows * 1e6, received / rows, (peak - before) / 1e6)


def measure(world: World) -> Data:
    rows = world.effort.posts
    peers = Target("peers", PEERS, {"WEB_CONCURRENCY": "1"})
    authorized = world.authorized | {"Accept-Encoding": "identity"}
    found: Data = {"rows": rows, "forms": {}}
    with world.serving(service(SERVICE), peers) as servers:
        for form, exports in EXPORTS.items():
            samples: dict[str, list[Sample]] = {name: [] for name in exports}
            for number_of_round in range(world.effort.rounds):
                world.status.show(f"{form}: round {number_of_round + 1} of {world.effort.rounds}")
                for name, (path, headers) in exports.items():
                    server = servers[SERVICE if name == SERVICE else "peers"]
                    samples[name].append(sample(server, path, authorized | headers, rows))
            found["forms"][form] = {name: _summary(of) for name, of in samples.items()}
    world.status.finish("Exports: done")
    return found


def _summary(samples: Sequence[Sample]) -> dict[str, float]:
    """Return the median of each figure, and of the memory the maximum."""
    columns = dict(zip(Sample._fields, zip(*samples, strict=True), strict=True))
    found = {name: float(f"{median(values):.4g}") for name, values in columns.items()}
    return found | {"megabytes": float(f"{max(columns['megabytes']):.3g}")}


def figures(data: Data) -> dict[str, str]:
    found = {}
    for form, key in (("JSON Lines", "json"), ("CSV", "csv")):
        for name, short in NAMES.items():
            one = data["forms"][form][name]
            found[f"export.{key}.{short}.rows"] = number(one["rows_per_second"])
            found[f"export.{key}.{short}.cpu"] = f"{number(one['cpu_microseconds'])} µs"
            found[f"export.{key}.{short}.memory"] = f"{one['megabytes']:.0f} MB"
    return found


def report(data: Data) -> str:
    rows = [
        [
            form,
            name,
            number(one["rows_per_second"]),
            number(one["cpu_microseconds"]),
            f"{one['bytes_of_row']:.0f}",
            f"{one['megabytes']:.0f}",
        ]
        for form, exports in data["forms"].items()
        for name, one in exports.items()
    ]
    return f"{INTRODUCTION.format(**data)}\n\n{table(HEAD, rows)}"


HEAD = ("format", "export", "rows a second", "CPU µs for a row", "bytes of a row", "MB of memory")
INTRODUCTION = """All {rows:,} posts, with one worker. The memory is the maximum of the rounds,
above what the worker had before. The others hold one connection and one snapshot until the
client has read everything."""
