"""How two workers share new connections, and how fast those are answered."""

import os
import signal
import socket
import subprocess
import sys
import time
from collections import Counter
from collections.abc import Callable, Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack, contextmanager, suppress
from http.client import HTTPConnection, HTTPException
from statistics import median

from benchmarks.new_connections import H2LOAD, longest_wait
from benchmarks.section import Data, number, share, table
from benchmarks.world import World
from dev.servers import ROOT
from dev.terminal import CommandError

ORDER = 13
TITLE = "New connections"
IN_QUICK = False
TOOLS = (H2LOAD,)

HOST, WORKERS, CONNECTIONS = "127.0.0.1", 2, 64
ROUNDS, QUICK_ROUNDS, REPLACEMENTS = 30, 3, 3
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
Rounds = dict[str, list[float]]  # by the name of the server


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


def largest_share(clients: Sequence[HTTPConnection]) -> float:
    """Send a request on each connection, and return the largest share of one worker."""
    for client in clients:
        if client.sock is None:
            client.connect()
    for client in clients:
        client.request("GET", "/")
    workers = Counter(client.getresponse().read() for client in clients)
    return max(workers.values()) / len(clients)


def ask_for(seconds: float, clients: Sequence[HTTPConnection]) -> None:
    """Keep the connections busy. A connection that breaks is opened again."""
    until = time.monotonic() + seconds
    while time.monotonic() < until:
        try:
            largest_share(clients)
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


def open_connections(port: int) -> float:
    """Return the largest share of one worker in new connections."""
    with connections(port, CONNECTIONS) as clients:
        found = largest_share(clients)
    time.sleep(PAUSE_SECONDS)
    return found


def wait_for_answers(port: int) -> float:
    """Return how long new connections wait for their answers at most, in milliseconds."""
    found = longest_wait(f"http://{HOST}:{port}/", CONNECTIONS)
    time.sleep(PAUSE_SECONDS)
    return found


def replace_worker(port: int) -> float:
    """Return the largest share in connections that clients use while a worker is replaced."""
    leaving = min(find_workers(port))
    with connections(port, CONNECTIONS) as clients:
        ask_for(0.5, clients)
        os.kill(leaving, signal.SIGTERM)
        ask_for(SETTLE_SECONDS, clients)
        found = largest_share(clients)
    time.sleep(PAUSE_SECONDS)
    return found


def measure(world: World) -> Data:
    rounds = QUICK_ROUNDS if world.effort.is_quick else ROUNDS
    measures = {"new": open_connections, "answered": wait_for_answers}
    with ExitStack() as stack:
        ports = {name: stack.enter_context(serve(SERVERS[name])) for name in SERVERS}
        for port in ports.values():
            find_workers(port)
        found: dict[str, Rounds] = {what: {name: [] for name in ports} for what in measures}
        for number_of_round in range(rounds):
            world.status.show(f"New connections: round {number_of_round + 1} of {rounds}")
            for what, measured in measures.items():
                for name, port in ports.items():
                    found[what][name].append(measured(port))
        found["kept"] = {} if world.effort.is_quick else _replace_workers(world, ports)
    world.status.finish("New connections: done")
    return {what: _middle_and_worst(rounds) for what, rounds in found.items()}


def _replace_workers(world: World, ports: Mapping[str, int]) -> Rounds:
    found: Rounds = {name: [] for name in ports}
    with ThreadPoolExecutor(len(ports)) as pool:
        for number_of_round in range(REPLACEMENTS):
            world.status.show(
                f"A worker is replaced: round {number_of_round + 1} of {REPLACEMENTS}"
            )
            for name, one in zip(ports, pool.map(replace_worker, ports.values()), strict=True):
                found[name].append(one)
    return found


def _middle_and_worst(rounds: Rounds) -> Data:
    return {
        name: {"median": float(f"{median(one):.3g}"), "worst": float(f"{max(one):.3g}")}
        for name, one in rounds.items()
    }


def figures(data: Data) -> dict[str, str]:
    return {
        f"accepting.{short}.{name}": f"{number(data['answered'][server][name])} ms"
        for short, server in NAMES.items()
        for name in ("median", "worst")
    }


def report(data: Data) -> str:
    rows = [
        [title, server, *(written(one[name]) for name in ("median", "worst"))]
        for what, (title, written) in ROWS.items()
        for server, one in data[what].items()
    ]
    return f"{INTRODUCTION}\n\n{table(HEAD, rows)}"


NAMES = {"stock": "plain shared socket", "service": "graceful_gunicorn"}
ROWS: dict[str, tuple[str, Callable[[float], str]]] = {
    "answered": ("longest wait for an answer", lambda value: f"{number(value)} ms"),
    "new": ("largest share of a worker", share),
    "kept": (f"the same, {SETTLE_SECONDS} s after a worker was told to exit", share),
}
HEAD = ("64 connections", "server", "median", "worst")
INTRODUCTION = """Clients open 64 connections at once and send a request on each of them, to two
workers of a small application. The worker of `graceful_gunicorn` is compared with that of Uvicorn,
which accepts from a plain shared socket. h2load measures the waits, and the shares come from a
client to which the workers say who they are. In the last rows the clients keep their connections,
and use them all the time."""
