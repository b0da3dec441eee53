"""A small service for benchmarks/accepting.py, and its Gunicorn configuration."""

import os
import sys
from typing import Any

from starlette.responses import PlainTextResponse
from starlette.types import Receive, Scope, Send

from graceful_gunicorn import ServerConfig, forget_worker, guard_master, prepare_worker

CONFIG = ServerConfig(
    check_command=(sys.executable, "-m", "gunicorn", "--print-config", *sys.argv[1:]),
    drain_seconds=0,
    graceful_timeout_seconds=10,
    closing_seconds=1,
)
worker_class = "graceful_gunicorn.Worker"


async def app(scope: Scope, receive: Receive, send: Send) -> None:
    """Answer with the process id of the worker."""
    if scope["type"] == "http":
        await PlainTextResponse(str(os.getpid()))(scope, receive, send)


def when_ready(server: Any) -> None:
    """Prepare the master."""
    guard_master(server, CONFIG)


def pre_fork(_server: Any, worker: Any) -> None:
    """Prepare a worker."""
    prepare_worker(worker, CONFIG)


def child_exit(server: Any, worker: Any) -> None:
    """Release what belongs to a worker."""
    forget_worker(server, worker)
