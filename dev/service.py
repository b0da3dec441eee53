"""Runs the service as a child process."""

import http.client
import os
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from typing import IO

from dev.address import Address
from dev.server_process import SUPERVISOR, wait_until
from dev.servers import ROOT, Servers, configured
from dev.terminal import CommandError, say

GUNICORN = ("app.serve",)
UVICORN = (
    *("uvicorn", "app.main:app", "--reload", "--reload-dir=app"),
    *("--reload-dir=coherent_cache", "--reload-dir=graceful_gunicorn"),
    "--http=dev.protocol:Protocol",
    "--ws=none",
    "--no-access-log",  # the service itself logs each request
    "--timeout-graceful-shutdown=3",  # an open event stream in a browser would delay each reload
)
WORKER = ("app.worker",)
RELOADING_WORKER = (
    *("uvicorn", "app.worker:load_worker", "--factory", "--reload", "--reload-dir=app"),
    *("--reload-dir=coherent_cache", "--ws=none", "--workers=1", "--no-access-log"),
    "--timeout-graceful-shutdown=1",
)
_RESTART_SECONDS = 1.0


@contextmanager
def open_service(
    module: tuple[str, ...],
    servers: Servers,
    address: Address,
    *,
    output: IO[bytes] | None = None,
) -> Iterator[subprocess.Popen[bytes]]:
    """Run the module until this context or this process ends.

    Its log goes to `output`, which keeps the terminal free for what the caller shows.
    """
    # With no load balancer, draining would only make Ctrl-C slower.
    environment = {"SERVER_DRAIN_SECONDS": "0"} | servers.environment
    if module == UVICORN:
        environment["WEB_CONCURRENCY"] = "1"
    for prefix in ("SERVER", "UVICORN"):
        environment |= {f"{prefix}_HOST": address.host, f"{prefix}_PORT": str(address.port)}
    with _open_process(module, environment, "requests", output) as process:
        yield process


@contextmanager
def _open_process(
    module: tuple[str, ...], environment: dict[str, str], work: str, output: IO[bytes] | None
) -> Iterator[subprocess.Popen[bytes]]:
    supervisor = (*SUPERVISOR, "", str(int(signal.SIGTERM)), "0")
    process = subprocess.Popen(
        [*supervisor, sys.executable, "-m", *module],
        cwd=ROOT,
        env=environment,
        stdin=subprocess.PIPE,
        stdout=output,
        stderr=output,
        start_new_session=True,  # Ctrl-C in the terminal must not end it without a clean shutdown
    )
    assert process.stdin is not None
    try:
        yield process
    finally:
        process.stdin.close()  # this tells the supervisor to stop it
        _wait_or_kill(process, work, quiet=output is not None)


def run_job_worker(
    service: subprocess.Popen[bytes], servers: Servers, address: Address, *, reload: bool
) -> None:
    """Run a job worker until the service ends. If the worker ends before, start it again."""
    # Its pages are on a free port of their own.
    links_url = configured("MAIL_LINKS_URL") or f"{address.url}/mailbox"
    environment = {"JOBS_STOP_SECONDS": "5"} | servers.environment | {"MAIL_LINKS_URL": links_url}
    environment |= {"METRICS_PORT": "0", "UVICORN_PORT": "0", "UVICORN_HOST": "127.0.0.1"}
    module = RELOADING_WORKER if reload else WORKER
    while True:
        with _open_process(module, environment, "jobs", None) as worker:
            while worker.poll() is None:
                if service.poll() is not None:
                    return
                time.sleep(0.1)
        say(f"The job worker ended by itself (exit code {worker.returncode}). It starts again.")
        time.sleep(_RESTART_SECONDS)


def wait_until_ready(process: subprocess.Popen[bytes], address: Address, seconds: float) -> None:
    """Wait until GET /readyz answers 200; raise if the process ends or takes too long."""

    def is_ready_or_ended() -> bool:
        return process.poll() is not None or _readiness(address) == "200"

    in_time = wait_until(is_ready_or_ended, seconds, "the service")
    if process.poll() is not None:
        raise ended_by_itself(process)
    if not in_time:
        raise CommandError(
            f"The service is not ready after {seconds:.0f} s (/readyz: {_readiness(address)}). "
            "Correct what its log above reports, then start it again."
        )


def ended_by_itself(process: subprocess.Popen[bytes]) -> CommandError:
    return CommandError(
        f"The service ended by itself (exit code {process.returncode}). Correct what its log "
        "above reports, then start it again."
    )


def _readiness(address: Address) -> str:
    connection = http.client.HTTPConnection(address.reachable_host, address.port, timeout=5)
    try:
        connection.request("GET", "/readyz")
        return str(connection.getresponse().status)
    except (OSError, http.client.HTTPException):
        return "no answer"
    finally:
        connection.close()


def _wait_or_kill(process: subprocess.Popen[bytes], work: str, *, quiet: bool) -> None:
    try:
        if process.poll() is None and not quiet:
            say(f"Stopping after the {work} in progress (press Ctrl-C again to stop at once)")
        process.wait()
    except KeyboardInterrupt:
        os.killpg(process.pid, signal.SIGKILL)
        process.wait()
