"""Measures the export of posts: `python -m benchmarks.export`. It writes benchmarks/export.md.

The service is compared with two exports as they are often written, in turns, under the same server
with one worker each. PostgreSQL, the server and the client share the cores of the machine, so
compare figures of one run only.
"""

import asyncio
import http.client
import os
import tempfile
import time
from collections.abc import Mapping, Sequence
from contextlib import ExitStack
from pathlib import Path
from statistics import median
from typing import NamedTuple
from urllib.parse import urlsplit

import asyncpg
import httpx2
import psutil

from benchmarks.cached import Server, serving
from dev.database import upgrade
from dev.servers import Servers, embedded_servers
from dev.service import GUNICORN
from dev.terminal import say

REPORT = Path(__file__).with_name("export.md")
PEERS = (*GUNICORN, "benchmarks.export_peers:app")
SIZES = {100_000: 5, 1_000_000: 3}  # posts, and rounds
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
# Bodies of 26 to 442 characters, with something to escape.
USERS = """
    INSERT INTO users (email, name, password_hash)
        SELECT 'u' || i || '@example.com', 'User ' || i, '' FROM generate_series(1, 2000) i
"""
POSTS = """
    INSERT INTO posts (author_id, title, body, created_at)
        SELECT 1 + i % 2000, 'The title of post ' || i,
            repeat('Some words, "quoted" here. ', 1 + i % 17),
            timestamptz '2020-01-01' + i * interval '61.123456 seconds'
        FROM generate_series($1::int, $2::int) i
"""


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


def measure(servers: Mapping[str, Server], token: str, size: int, rounds: int) -> list[str]:
    lines = []
    authorized = {"Authorization": f"Bearer {token}", "Accept-Encoding": "identity"}
    for form, exports in EXPORTS.items():
        found: dict[str, list[Sample]] = {name: [] for name in exports}
        for number in range(rounds):
            say(f"{size:,} posts as {form}: round {number + 1} of {rounds}")
            for name, (path, headers) in exports.items():
                server = servers[SERVICE if name == SERVICE else "peers"]
                found[name].append(sample(server, path, authorized | headers, size))
        for name, samples in found.items():
            rate, cpu, length = (median(column) for column in list(zip(*samples, strict=True))[:3])
            memory = max(one.megabytes for one in samples)
            lines.append(
                f"| {size:,} | {form} | {name} | {rate:,.0f} | {cpu:.1f} | {length:.0f} "
                f"| {memory:.0f} |"
            )
            say(lines[-1])
    return lines


async def fill(servers: Servers, first: int, last: int) -> None:
    say(f"Writing {last - first + 1:,} posts")
    connection = await asyncpg.connect(servers.database_url)
    if first == 1:
        await connection.execute(USERS)
    await connection.execute(POSTS, first, last, timeout=600)
    await connection.execute("VACUUM ANALYZE")
    await connection.close()


def log_in(server: Server) -> str:
    """Register a user, and return an access token."""
    user = {"email": "ann@example.com", "name": "Ann", "password": "correct horse battery"}
    form = {"username": user["email"], "password": user["password"]}
    with httpx2.Client(base_url=server.url) as client:
        client.post("/v1/users", json=user).raise_for_status()
        token = client.post("/v1/auth/token", data=form).raise_for_status().json()
    return str(token["access_token"])


def write_report(lines: Sequence[str]) -> None:
    head = (
        "# Exports\n\n`python -m benchmarks.export` writes this page. PostgreSQL, one worker and "
        f"the client share {os.cpu_count()} cores. Each figure is the median of the rounds. The "
        "memory is their maximum, above what the worker had before.\n\n"
        "| posts | format | export | rows a second | CPU µs of the worker for a row "
        "| bytes of a row | MB of memory |\n|---|---|---|---|---|---|---|\n"
    )
    REPORT.write_text(head + "\n".join(lines) + "\n", encoding="utf-8")


def main() -> None:
    """Measure all exports, and write the report."""
    lines: list[str] = []
    with ExitStack() as stack:
        folder = Path(stack.enter_context(tempfile.TemporaryDirectory()))
        servers = stack.enter_context(embedded_servers(folder, durable=False))
        upgrade(servers)
        opened = {
            SERVICE: stack.enter_context(serving(servers, {})),
            "peers": stack.enter_context(serving(servers, {}, PEERS)),
        }
        token, first = log_in(opened[SERVICE]), 1
        for size, rounds in SIZES.items():
            asyncio.run(fill(servers, first, size))
            lines += measure(opened, token, size, rounds)
            first = size + 1
    write_report(lines)


if __name__ == "__main__":
    main()
