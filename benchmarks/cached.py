"""Compares cached responses with a raw ASGI application that sends the same bytes: `make bench`.

Everything is measured in one run, in turns, under the same server with one worker process, with all
middleware on. Ratios are what it is about: the machine is shared by servers and load.
"""

import json
import os
import secrets
import statistics
import sys
import tempfile
import urllib.request
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from pathlib import Path
from unittest.mock import patch

from redis import Redis

from benchmarks.load import Sample, find_wrk, measure
from dev.address import Address
from dev.database import DEMO_SIZE, seed, upgrade
from dev.server_process import free_port
from dev.servers import Servers, embedded_servers
from dev.service import GUNICORN, open_service, wait_until_ready
from dev.terminal import CommandError, say

REPORT = Path(__file__).parent / "cached.md"
RANDOM_POSTS = Path(__file__).parent / "random_posts.lua"
EACH_POST = Path(__file__).parent / "each_post.lua"
ROUNDS, SECONDS, FILL_SECONDS = 5, 3, 130
RAW = (*GUNICORN, "benchmarks.raw:app")

# Environments of the service, and what they are called in the report.
SERVICES = {
    "in process": {},
    "through Valkey": {"CACHE_MEMORY_TTL_SECONDS": "0", "CACHE_NAMESPACE": "bench2"},
    "not cached": {"CACHE_ENABLED": "false"},
}


@dataclass(frozen=True)
class Case:
    """What the clients request. The raw application sends the response to `path`."""

    title: str
    path: str
    script: Path | None = None


CASES = (
    Case("one page of 20 posts", "/v1/posts"),
    Case("one post", "/v1/posts/77"),
    Case("100,000 posts at random", "/v1/posts/77", RANDOM_POSTS),
)


@dataclass(frozen=True)
class Server:
    """A process that serves."""

    url: str
    process_id: int


@contextmanager
def serving(
    servers: Servers, environment: dict[str, str], module: tuple[str, ...] = GUNICORN
) -> Iterator[Server]:
    """Serve with one worker, as in production, until the block is left. Its log is not kept."""
    address = Address("127.0.0.1", free_port())
    production = {
        "ENVIRONMENT": "production",
        "AUTH_SECRET": secrets.token_urlsafe(48),
        "RATE_LIMITS_QUOTAS": "*=1000000/1",  # the load is a single client
    }
    with ExitStack() as stack:
        nowhere = stack.enter_context(Path(os.devnull).open("wb"))
        with patch.dict(os.environ, production | {"WEB_CONCURRENCY": "1"} | environment):
            process = stack.enter_context(open_service(module, servers, address, output=nowhere))
        wait_until_ready(process, address, 30)
        yield Server(address.url, process.pid)


def measure_case(case: Case, servers: dict[str, Server]) -> dict[str, Sample]:
    """Measure all servers in turns; of each figure take the median of the rounds."""
    rounds: dict[str, list[Sample]] = {name: [] for name in servers}
    for number in range(ROUNDS):
        say(f"{case.title}: round {number + 1} of {ROUNDS}")
        for name, server in servers.items():
            sample = measure(server.url + case.path, server.process_id, SECONDS, case.script)
            rounds[name].append(sample)
    return {name: _median(samples) for name, samples in rounds.items()}


def _median(samples: list[Sample]) -> Sample:
    columns = zip(*(vars(sample).values() for sample in samples), strict=True)
    return Sample(*map(statistics.median, columns))


def make_room(servers: Servers) -> None:
    """Let Valkey hold all responses, because eviction is not measured."""
    with Redis.from_url(servers.valkey_url) as valkey:
        valkey.config_set("maxmemory", "2gb")


def keep_bytes(server: Server, case: Case, file: Path) -> None:
    """Write down what the service answers from its memory."""
    for _ in range(2):
        with urllib.request.urlopen(server.url + case.path) as response:  # noqa: S310 - our own
            body = response.read().decode()
    headers = [pair for pair in response.getheaders() if pair[0] not in ("date", "connection")]
    file.write_text(json.dumps([headers, body]), encoding="utf-8")


def rows(case: Case, samples: dict[str, Sample]) -> Iterator[str]:
    """Write one line of the report for each server."""
    raw, uncached = samples["raw ASGI"], samples["not cached"]
    for name, sample in samples.items():
        yield (
            f"| {case.title} | {name} | {sample.rps:,.0f} | {sample.rps / raw.rps:.2f} "
            f"| {sample.rps / uncached.rps:.1f} | {sample.cpu_microseconds:.0f} "
            f"| {sample.p50_milliseconds:.1f} | {sample.p99_milliseconds:.1f} |"
        )


def main() -> None:
    """Measure every case, and write the report."""
    find_wrk()
    lines: list[str] = []
    with ExitStack() as stack:
        folder = Path(stack.enter_context(tempfile.TemporaryDirectory()))
        servers = stack.enter_context(embedded_servers(folder, durable=False))
        make_room(servers)
        upgrade(servers)
        seed(servers, DEMO_SIZE)
        services = {
            name: stack.enter_context(serving(servers, environment))
            for name, environment in SERVICES.items()
        }
        for case in CASES:
            keep_bytes(services["in process"], case, folder / "bytes.json")
            if case.script is not None:
                for name in ("in process", "through Valkey"):
                    say(f"{case.title}: filling the cache, {FILL_SECONDS} s")
                    server = services[name]
                    measure(server.url, server.process_id, FILL_SECONDS, EACH_POST)
            with serving(servers, {"BENCHMARK_BYTES": str(folder / "bytes.json")}, RAW) as raw:
                lines += rows(case, measure_case(case, {"raw ASGI": raw, **services}))
    REPORT.write_text(HEAD.format(cores=os.cpu_count()) + "\n".join(lines) + "\n", encoding="utf-8")
    say(f"{REPORT.read_text(encoding='utf-8')}\nWritten to {REPORT.relative_to(Path.cwd())}")


HEAD = """# Cached responses compared with a raw ASGI application

`make bench` writes this page. One worker process answers 64 keep-alive connections. The server and
the load share {cores} cores. The figures are medians of 5 rounds of 3 s, taken in turns. The raw
application sends the same bytes with the same server. "CPU µs" is the CPU time of the server's
processes for one request.

| request | served | requests/s | share of raw | times "not cached" | CPU µs | p50 ms | p99 ms |
|---|---|---|---|---|---|---|---|
"""

if __name__ == "__main__":
    try:
        main()
    except CommandError as error:
        sys.exit(str(error))
