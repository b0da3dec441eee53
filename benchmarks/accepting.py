"""Measures how workers share new connections: `python -m benchmarks.accepting`, about 6 minutes.

It compares the worker of `graceful_gunicorn` with Uvicorn's own worker. In both cases the two
workers accept from one shared socket on the loopback interface. The servers are measured in
alternation. In each round, a client opens 64 connections and sends a request on each of them.
"""

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
from pathlib import Path
from statistics import median
from typing import NamedTuple

PROJECT = Path(__file__).parents[1]
HOST, WORKERS, CONNECTIONS, ROUNDS = "127.0.0.1", 2, 64, 30
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
        cwd=PROJECT,
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
    raise SystemExit(f"Fewer than {WORKERS} workers have answered in {PATIENCE_SECONDS} s.")


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


def show(connections: str, server: str, rounds: Sequence[Round]) -> None:
    """Print the median and the worst of the rounds as a row of the table."""
    shares = [one.largest_share for one in rounds]
    times = [one.milliseconds for one in rounds]
    print(
        f"| {connections} | {server} | {median(shares):.0%} | {max(shares):.0%} "
        f"| {median(times):.0f} | {max(times):.0f} |"
    )


def main() -> None:
    """Measure, and print a table."""
    with ExitStack() as stack:
        ports = {name: stack.enter_context(serve(SERVERS[name])) for name in SERVERS}
        pool = stack.enter_context(ThreadPoolExecutor(len(ports)))
        for port in ports.values():
            find_workers(port)
        new = [[open_connections(port) for port in ports.values()] for _ in range(ROUNDS)]
        kept, later = [], []
        for _ in range(ROUNDS):
            kept.append(list(pool.map(replace_worker, ports.values())))
            later.append([open_connections(port) for port in ports.values()])
    print("| 64 connections | server | largest share % | worst | first answers ms | worst |")
    print("|---|---|---|---|---|---|")
    for what, rounds in (
        ("new", new),
        ("new, after a worker was replaced", later),
        (f"kept, {SETTLE_SECONDS} s after a worker was told to exit", kept),
    ):
        for name, of_server in zip(ports, zip(*rounds, strict=True), strict=True):
            show(what, name, of_server)


if __name__ == "__main__":
    main()
