"""Gunicorn's configuration of the project that is served by `graceful_gunicorn` alone."""

import sys
from pathlib import Path
from typing import Any

from graceful_gunicorn import (
    ServerConfig,
    begin_metrics,
    end_metrics,
    forget_worker,
    guard_master,
    prepare_worker,
)

FOLDER = Path(__file__).parent
CONFIG = ServerConfig(
    check_command=(sys.executable, "-m", "gunicorn", "--print-config", *sys.argv[1:]),
    drain_seconds=2,
    header_seconds=0.5,
    on_drain=(FOLDER / "draining").touch,
)
begin_metrics()
bind = (FOLDER / "bind").read_text(encoding="utf-8").split()
worker_class = "graceful_gunicorn.Worker"
workers = 2
control_socket_disable = True


def when_ready(server: Any) -> None:
    guard_master(server, CONFIG)


def pre_fork(_server: Any, worker: Any) -> None:
    prepare_worker(worker, CONFIG)


def child_exit(server: Any, worker: Any) -> None:
    forget_worker(server, worker)


def on_exit(_server: Any) -> None:
    end_metrics()
