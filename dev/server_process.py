"""Starts a server as a child process, waits until it is ready, and stops it."""

import fcntl
import os
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Callable, Sequence
from contextlib import suppress
from dataclasses import dataclass
from importlib.util import find_spec
from pathlib import Path
from typing import IO

from app.infra.settings_base.sources import LIBPQ_VARIABLE
from dev.terminal import CommandError, say

# Recovery after a crash may take PostgreSQL long.
_START_SECONDS = 120.0
# PostgreSQL writes a checkpoint when it stops. After a large import that takes seconds.
_STOP_SECONDS = 30.0
# Another process can take a free port before the server binds it.
_ATTEMPTS = 3

SUPERVISOR = (sys.executable, "-IS", str(Path(__file__).with_name("supervise.py")))


@dataclass(frozen=True)
class Program:
    """A server that can be started. Its lock and its log are in `folder`."""

    title: str
    name: str
    folder: Path
    stop_signal: signal.Signals
    # Goes before the command line of the server.
    prefix: tuple[str, ...] = ()
    # An open file for a supervisor (supervise.py) to inherit. Without it there is no supervisor.
    claim: IO[str] | None = None

    @property
    def lock_path(self) -> Path:
        """The lock that supervise.py describes."""
        return self.folder / f"{self.name}.lock"

    @property
    def log_path(self) -> Path:
        return self.folder / f"{self.name}.log"


@dataclass(frozen=True)
class Server:
    program: Program
    process: subprocess.Popen[bytes]
    port: int

    @property
    def is_running(self) -> bool:
        return self.process.poll() is None

    def stop(self) -> None:
        """Stop the server; kill it when it has not ended within 30 seconds."""
        self.process.send_signal(self.program.stop_signal)
        try:
            self.process.wait(_STOP_SECONDS)
        except subprocess.TimeoutExpired:
            os.killpg(self.process.pid, signal.SIGKILL)
            self.process.wait()
        if self.process.stdin is not None:
            self.process.stdin.close()


def start_on_free_port(
    program: Program, command: Callable[[int], Sequence[str]], is_ready: Callable[[Server], bool]
) -> Server:
    """Start the server with the command line for a free port; return when it is ready."""
    for _ in range(_ATTEMPTS):
        port = free_port()
        server = Server(program, _launch(program, command(port)), port)
        if _becomes_ready(server, is_ready):
            return server
    tail = program.log_path.read_text(encoding="utf-8", errors="replace").splitlines()[-10:]
    raise CommandError(
        "\n".join([*tail, f"{program.title} does not start. Its log is {program.log_path}."])
        + "\nCorrect what the log reports. If the data cannot be repaired: make clean-data"
    )


def _launch(program: Program, command: Sequence[str]) -> subprocess.Popen[bytes]:
    command = [*program.prefix, *command]
    with program.log_path.open("wb") as log:
        if program.claim is None:
            return spawn(command, output=log)
        limits = (str(program.lock_path), str(int(program.stop_signal)), str(_STOP_SECONDS))
        return spawn(
            [*SUPERVISOR, *limits, *command],
            stdin=subprocess.PIPE,
            output=log,
            inherit=[program.claim.fileno()],
        )


def spawn(
    command: Sequence[str],
    *,
    output: IO[bytes] | int,
    stdin: int = subprocess.DEVNULL,
    inherit: Sequence[int] = (),
) -> subprocess.Popen[bytes]:
    """Start a process in a session of its own, so that Ctrl-C in the terminal does not reach it.

    Variables such as PGDATA are removed from its environment: they change PostgreSQL's programs.
    """
    kept = {name: text for name, text in os.environ.items() if not LIBPQ_VARIABLE.fullmatch(name)}
    return subprocess.Popen(
        command,
        stdin=stdin,
        stdout=output,
        stderr=subprocess.STDOUT,
        cwd="/",  # every user may enter this folder
        env=kept | {"LC_ALL": "C"},
        pass_fds=inherit,
        start_new_session=True,
    )


def stop_leftover(program: Program) -> bool:
    """Stop the server that outlived a killed supervisor; return whether there was one."""
    with program.lock_path.open("a+", encoding="utf-8") as lock:
        if _acquire(lock):
            return False
        lock.seek(0)
        process_id = int(lock.read())
        for stop_signal in (program.stop_signal, signal.SIGKILL):
            with suppress(ProcessLookupError):  # it has ended, and its children are ending
                os.kill(process_id, stop_signal)
            if wait_until(lambda: _acquire(lock), _STOP_SECONDS, f"{program.title} to stop"):
                return True
    raise CommandError(f"{program.title} (process {process_id}) does not stop. Kill it by hand.")


def _becomes_ready(server: Server, is_ready: Callable[[Server], bool]) -> bool:
    waiting_for = f"{server.program.title} to start"
    ready = False
    try:
        wait_until(lambda: not server.is_running or is_ready(server), _START_SECONDS, waiting_for)
        ready = server.is_running and is_ready(server)
    finally:
        if not ready:
            server.stop()
    return ready


def wait_until(condition: Callable[[], bool], seconds: float, waiting_for: str) -> bool:
    """Wait until the condition holds, and return whether it did in time. A long wait is shown."""
    started = said = time.monotonic()
    while not condition():
        now = time.monotonic()
        if now > started + seconds:
            return False
        if now > said + 2:
            say(f"Waiting for {waiting_for} ({now - started:.0f} s)")
            said = now + 3
        time.sleep(0.1)
    return True


def _acquire(lock: IO[str]) -> bool:
    try:
        fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        return False
    return True


def free_port() -> int:
    with socket.socket() as candidate:
        candidate.bind(("127.0.0.1", 0))
        return int(candidate.getsockname()[1])


def package_folder(name: str) -> Path:
    """Find the folder of a package whose programs are used, without importing the package."""
    spec = find_spec(name)
    if spec is None or not spec.submodule_search_locations:
        raise CommandError(f"{name} is not installed. Remove .venv, then run the command again.")
    return Path(spec.submodule_search_locations[0])
