"""One server as a child process: its lock, its log, its port, its end.

The server inherits an exclusive lock on the file that names its process id. The lock lives exactly
as long as the server, whatever became of the process that started it, so a leftover is known for
certain: a process id alone may have been given to somebody else since.
"""

import fcntl
import os
import signal
import socket
import subprocess
import time
from collections.abc import Callable, Sequence
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path

from dev.identity import Identity, spawn
from dev.terminal import CommandError

# Recovery after a crash may take long; a server that is silent for longer is broken.
_START_SECONDS = 120.0
# PostgreSQL writes a checkpoint first, which after a large import takes seconds.
_STOP_SECONDS = 30.0
# A port that was free a moment ago may be taken by the time the server binds it.
_ATTEMPTS = 3


@dataclass(frozen=True)
class Program:
    """What is known of a server before it runs; its lock and its log are in `folder`."""

    title: str
    name: str
    folder: Path
    stop_signal: signal.Signals
    identity: Identity

    @property
    def lock_path(self) -> Path:
        """Held by the server itself; contains its process id."""
        return self.folder / f"{self.name}.lock"

    @property
    def log_path(self) -> Path:
        """Begun anew at each start."""
        return self.folder / f"{self.name}.log"


@dataclass(frozen=True)
class Server:
    """A program that was started here."""

    program: Program
    process: subprocess.Popen[bytes]
    port: int

    @property
    def is_running(self) -> bool:
        """Whether our own process lives, not whether something answers on its port."""
        return self.process.poll() is None

    def stop(self) -> None:
        """End it, by force when it takes too long."""
        self.process.send_signal(self.program.stop_signal)
        try:
            self.process.wait(_STOP_SECONDS)
        except subprocess.TimeoutExpired:
            self.process.kill()
            self.process.wait()


def start_on_free_port(
    program: Program,
    command: Callable[[int], Sequence[str]],
    is_ready: Callable[[Server], bool],
    *,
    configuration: Callable[[int], str] = lambda _port: "",
) -> Server:
    """Start the server and return once it is ready; `configuration` is its standard input."""
    for _ in range(_ATTEMPTS):
        port = free_port()
        server = Server(program, _launch(program, command(port), configuration(port)), port)
        if _becomes_ready(server, is_ready):
            return server
    tail = program.log_path.read_text(errors="replace", encoding="utf-8").splitlines()[-10:]
    sentence = f"{program.title} does not start; its log is {program.log_path}."
    raise CommandError("\n".join([*tail, sentence]))


def stop_leftover(program: Program) -> bool:
    """End the server that outlived a killed keeper; tell whether there was one."""
    with program.lock_path.open("a+", encoding="utf-8") as lock:
        if _acquire(lock.fileno()):
            return False
        lock.seek(0)
        process_id = int(lock.read())
        for stop_signal in (program.stop_signal, signal.SIGKILL):
            with suppress(ProcessLookupError):  # dead, while its last children still end
                os.kill(process_id, stop_signal)
            if _wait(lambda: _acquire(lock.fileno()), _STOP_SECONDS):
                return True
    raise CommandError(f"{program.title} (process {process_id}) does not stop: end it by hand.")


def _launch(program: Program, command: Sequence[str], text: str) -> subprocess.Popen[bytes]:
    with program.lock_path.open("w", encoding="utf-8") as lock, program.log_path.open("wb") as log:
        fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        process = spawn(program.identity, command, output=log, inherit=[lock.fileno()])
        lock.write(str(process.pid))
    assert process.stdin is not None
    with suppress(BrokenPipeError), process.stdin as stdin:
        stdin.write(text.encode())
    return process


def _becomes_ready(server: Server, is_ready: Callable[[Server], bool]) -> bool:
    ready = False
    try:
        _wait(lambda: not server.is_running or is_ready(server), _START_SECONDS)
        ready = server.is_running and is_ready(server)
    finally:
        if not ready:
            server.stop()
    return ready


def _wait(condition: Callable[[], bool], seconds: float) -> bool:
    deadline = time.monotonic() + seconds
    while not condition():
        if time.monotonic() > deadline:
            return False
        time.sleep(0.02)
    return True


def _acquire(descriptor: int) -> bool:
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        return False
    return True


def free_port() -> int:
    """Choose a port that nobody listens on."""
    with socket.socket() as candidate:
        candidate.bind(("127.0.0.1", 0))
        return int(candidate.getsockname()[1])
