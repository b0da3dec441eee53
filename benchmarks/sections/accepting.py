"""How two workers share new connections, and how fast those are answered."""

import os
import signal
import socket
import subprocess
import sys
import time
from collections import Counter
from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack, contextmanager, suppress
from http.client import HTTPConnection, HTTPException
from statistics import median
from typing import NamedTuple

from benchmarks.section import Data, number, share, table
from benchmarks.world import World
from dev.servers import ROOT
from dev.terminal import CommandError

ORDER = 13
TITLE = "New connections"
IN_QUICK = False

HOST, WORKERS, CONNECTIONS = "127.0.0.1", 2, 64
ROUNDS, QUICK_ROUNDS, REPLACEMENTS = 15, 3, 3
PATIENCE_SECONDS = 30
# Until the workers have noticed that the connections of the last round are closed.
PAUSE_SECONDS = 0.3
# How long after a worker was told to exit the shares are counted. Its replacement needs about 2 s
# to start.
SETTLE_SECONDS = 8
SERVICE = ("benchmarks.accepting_server:app", "--no-control-socket", "--log-level", "error")
SERVERS = {
    "plain shared socket": (*SERVICE, "--worker-class", "uvicorn_worker.UvicornWorker"),
    "graceful_gunicorn": (*SERVICE, "--config", "benchmarks/accepting_server.py"),
}


class Round(NamedTuple):
    """The largest share of one worker, and the time until every connection had an answer."""

    largest_share: float
    milliseconds: float


@contextmanager
def serve(options: tuple[str, ...]) -> Iterator[int]:
    """Run a server in the block, and yield its port."""
    with socket.create_server((HOST, 0)) as free:
        port: int = free.getsockname()[1]
    process = subprocess.Popen(
        [sys.executable, "-m", "gunicorn", *options, "-b", f"{HOST}:{port}", "-w", str(WORKERS)],
        cwd=ROOT,
    )
    try:
        yield port
    finally:
        process.terminate()
        process.wait()


@contextmanager
def connections(port: int, number: int) -> Iterator[list[HTTPConnection]]:
    """Yield clients that connect when they are used, and again when they were disconnected."""
    clients = [HTTPConnection(HOST, port, timeout=PATIENCE_SECONDS) for _ in range(number)]
    yield clients
    for client in clients:
        client.close()


def ask_all(clients: Sequence[HTTPConnection]) -> Round:
    """Send a request on each connection, and then read the answers."""
    started = time.perf_counter()
    for client in clients:
        if client.sock is None:
            client.connect()
    for client in clients:
        client.request("GET", "/")
    workers = Counter(client.getresponse().read() for client in clients)
    milliseconds = (time.perf_counter() - started) * 1_000
    return Round(max(workers.values()) / len(clients), milliseconds)


def ask_for(seconds: float, clients: Sequence[HTTPConnection]) -> None:
    """Keep the connections busy. A connection that breaks is opened again."""
    until = time.monotonic() + seconds
    while time.monotonic() < until:
        try:
            ask_all(clients)
        except (OSError, HTTPException):
            for client in clients:
                client.close()
        time.sleep(0.05)


def find_workers(port: int) -> set[int]:
    """Return the process ids of the workers, when as many as there should be have answered."""
    deadline = time.monotonic() + PATIENCE_SECONDS
    while time.monotonic() < deadline:
        with connections(port, CONNECTIONS) as clients, suppress(OSError, HTTPException):
            for client in clients:
                client.request("GET", "/")
            found = {int(client.getresponse().read()) for client in clients}
            if len(found) == WORKERS:
                return found
        time.sleep(PAUSE_SECONDS)
    raise CommandError(f"Fewer than {WORKERS} workers have answered in {PATIENCE_SECONDS} s.")


def open_connections(port: int) -> Round:
    """Measure new connections."""
    with connections(port, CONNECTIONS) as clients:
        answered = ask_all(clients)
    time.sleep(PAUSE_SECONDS)
    return answered


def replace_worker(port: int) -> Round:
    """Measure connections that clients keep and use while a worker is replaced."""
    leaving = min(find_workers(port))
    with connections(port, CONNECTIONS) as clients:
        ask_for(0.5, clients)
        os.kill(leaving, signal.SIGTERM)
        ask_for(SETTLE_SECONDS, clients)
        answered = ask_all(clients)
    time.sleep(PAUSE_SECONDS)
    return answered


def measure(world: World) -> Data:
    rounds = QUICK_ROUNDS if world.effort.is_quick else ROUNDS
    with ExitStack() as stack:
        ports = {name: stack.enter_context(serve(SERVERS[name])) for name in SERVERS}
        for port in ports.values():
            find_workers(port)
        found: dict[str, list[Round]] = {name: [] for name in ports}
        for number_of_round in range(rounds):
            world.status.show(f"New connections: round {number_of_round + 1} of {rounds}")
            for name, port in ports.items():
                found[name].append(open_connections(port))
        replaced: dict[str, list[Round]] = {name: [] for name in ports}
        if not world.effort.is_quick:
            pool = stack.enter_context(ThreadPoolExecutor(len(ports)))
            for number_of_round in range(REPLACEMENTS):
                world.status.show(
                    f"A worker is replaced: round {number_of_round + 1} of {REPLACEMENTS}"
                )
                for name, one in zip(ports, pool.map(replace_worker, ports.values()), strict=True):
                    replaced[name].append(one)
    world.status.finish("New connections: done")
    return {"new": _as_data(found), "kept": _as_data(replaced)}


def _as_data(found: dict[str, list[Round]]) -> Data:
    return {
        name: {
            "share": median(one.largest_share for one in rounds),
            "worst_share": max(one.largest_share for one in rounds),
            "median": float(f"{median(one.milliseconds for one in rounds):.3g}"),
            "worst": float(f"{max(one.milliseconds for one in rounds):.3g}"),
        }
        for name, rounds in found.items()
        if rounds
    }


def figures(data: Data) -> dict[str, str]:
    return {
        f"accepting.{short}.{name}": f"{number(data['new'][server][name])} ms"
        for short, server in NAMES.items()
        for name in ("median", "worst")
    }


def report(data: Data) -> str:
    titles = {"new": "new", "kept": f"kept, {SETTLE_SECONDS} s after a worker was told to exit"}
    rows = [
        [
            titles[what],
            server,
            share(one["share"]),
            share(one["worst_share"]),
            number(one["median"]),
            number(one["worst"]),
        ]
        for what, servers in data.items()
        for server, one in servers.items()
    ]
    return f"{INTRODUCTION}\n\n{table(HEAD, rows)}"


NAMES = {"stock": "plain shared socket", "service": "graceful_gunicorn"}
HEAD = (
    *("64 connections", "server", "largest share of a worker", "worst", "first answers ms"),
    "worst",
)
INTRODUCTION = """A client opens 64 connections at once and sends a request on each of them, to
two workers of a small application. The worker of `graceful_gunicorn` is compared with that of
Uvicorn, which accepts from a plain shared socket. The time is that until all connections have an
answer."""
