"""The service as a child process: how it starts, when it is ready, how it ends."""

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
from dev.backing import Backing
from dev.servers import ROOT
from dev.terminal import CommandError, say

GUNICORN = ("app.serve",)
UVICORN = (
    *("uvicorn", "app.main:app", "--reload", "--reload-dir=app"),
    *("--reload-dir=coherent_cache", "--reload-dir=graceful_gunicorn"),
    "--http=dev.protocol:Protocol",
    "--ws=none",
    "--workers=1",  # or it reads WEB_CONCURRENCY, and knows no `auto`
    "--no-access-log",  # the service logs each request itself
    "--timeout-graceful-shutdown=3",  # a browser's open stream would hold up every reload
)


@contextmanager
def open_service(
    module: tuple[str, ...],
    backing: Backing,
    address: Address,
    *,
    output: IO[bytes] | None = None,
) -> Iterator[subprocess.Popen[bytes]]:
    """Run the server until this context, or this process, ends (see leash.py).

    Its log goes to `output`, or to where this process's own goes.
    """
    read_end, write_end = os.pipe()
    leash = [sys.executable, "-m", "dev.leash", str(read_end)]
    host, port = address.host, str(address.port)
    listen = {"SERVER_HOST": host, "SERVER_PORT": port}  # for Gunicorn's configuration
    listen |= {"UVICORN_HOST": host, "UVICORN_PORT": port}
    quick = {"SERVER_DRAIN_SECONDS": "0"}  # no load balancer has to notice, and Ctrl-C waits
    process = subprocess.Popen(
        [*leash, sys.executable, "-m", *module],
        cwd=ROOT,
        env=quick | backing.environment | listen,
        stdout=output,
        pass_fds=[read_end],
        start_new_session=True,  # the terminal's Ctrl-C would end it without draining
    )
    os.close(read_end)
    try:
        yield process
    finally:
        os.close(write_end)
        _wait_or_force(process)


def wait_until_ready(
    process: subprocess.Popen[bytes], address: Address, patience_seconds: float
) -> None:
    """Return when GET /readyz answers 200; raise when the process ends or time is up."""
    started = said = time.monotonic()
    while (answer := _readiness(address)) != "200":
        now = time.monotonic()
        if process.poll() is not None:
            raise ended_by_itself(process)
        if now - started > patience_seconds:
            raise CommandError(f"/readyz says {answer}: correct what the service's output tells.")
        if now - said > 5:
            say(f"Waiting for the service ({now - started:.0f} s, /readyz: {answer})")
            said = now
        time.sleep(0.1)


def ended_by_itself(process: subprocess.Popen[bytes]) -> CommandError:
    """Say that nobody asked for this end."""
    return CommandError(
        f"The service ended by itself (exit code {process.returncode}): correct what its output "
        "above tells, then start it again."
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


def _wait_or_force(process: subprocess.Popen[bytes]) -> None:
    try:
        if process.poll() is None:
            say("Stopping: requests under way are answered first (Ctrl-C again: at once)")
        process.wait()
    except KeyboardInterrupt:
        os.killpg(process.pid, signal.SIGKILL)
        process.wait()
