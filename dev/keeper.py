"""The process that owns both embedded servers: `python -m dev.keeper FOLDER [--volatile]`.

It reports on standard output, one JSON object a line, and ends the servers at the end of its
standard input: an owner that dies in whatever way closes that, on every system.
"""

import argparse
import json
import os
import select
import shutil
import signal
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager, suppress
from dataclasses import asdict
from pathlib import Path
from typing import IO

from dev.identity import Identity
from dev.installation import open_installation
from dev.postgres import postgres_program, start_postgres
from dev.server_process import Server, stop_leftover
from dev.servers import FolderInUse, Servers, claim
from dev.terminal import CommandError
from dev.valkey import start_valkey, valkey_program

# Another command of the same clone starts or stops the servers in far less.
_PATIENCE_SECONDS = 60.0


def main() -> int:
    """Keep the servers; a failure is reported as a sentence."""
    parser = argparse.ArgumentParser()
    parser.add_argument("folder", type=Path)
    parser.add_argument("--volatile", action="store_true")
    arguments = parser.parse_args()
    signal.signal(signal.SIGTERM, _exit_once)
    try:
        return _keep(arguments.folder, durable=not arguments.volatile)
    except CommandError as error:
        _report(error=str(error))
    except OSError as error:
        _report(error=f"{error}: see that the folder is yours and that its disk has room.")
    return 1


def _keep(folder: Path, *, durable: bool) -> int:
    folder.mkdir(mode=0o700, parents=True, exist_ok=True)
    try:
        with _claim_in_turn(folder) as state, _servers(folder, durable) as (servers, processes):
            state.write(json.dumps(asdict(servers)))
            state.flush()
            _report(servers=asdict(servers))
            return _wait_for_end(processes)
    except FolderInUse as use:
        if use.servers is None:
            raise
        _report(servers=asdict(use.servers))
        return 0


@contextmanager
def _claim_in_turn(folder: Path) -> Iterator[IO[str]]:
    """Own the folder once its owner is gone; servers that are ready are for sharing instead."""
    deadline = time.monotonic() + _PATIENCE_SECONDS
    with ExitStack() as stack:
        while True:
            try:
                state = stack.enter_context(claim(folder))
                break
            except FolderInUse as use:
                if use.servers is not None or time.monotonic() > deadline:
                    raise
            time.sleep(0.05)
        yield state


@contextmanager
def _servers(folder: Path, durable: bool) -> Iterator[tuple[Servers, list[Server]]]:
    stop_leftovers(folder, _say_progress)
    installation = open_installation(folder)
    with ExitStack() as stack:
        if installation.home != folder and not durable:  # its owner only knows of `folder`
            stack.callback(shutil.rmtree, installation.home)
        postgres, database_url = start_postgres(
            folder, installation, durable=durable, say=_say_progress
        )
        stack.callback(postgres.stop)
        valkey, valkey_url = start_valkey(folder)
        stack.callback(valkey.stop)
        yield Servers(database_url, valkey_url), [postgres, valkey]


def stop_leftovers(folder: Path, say: Callable[[str], None]) -> None:
    """End what a killed keeper could not; the caller must have claimed the folder."""
    for program in (postgres_program(folder, Identity()), valkey_program(folder)):
        if stop_leftover(program):
            say(f"Stopped a {program.title} that an earlier run had left behind")


def _wait_for_end(servers: list[Server]) -> int:
    while True:
        if select.select([sys.stdin], [], [], 0.5)[0]:
            return 0  # nobody writes to it: readable means ended
        for server in servers:
            if not server.is_running:
                _warn_of_end(server)
                return 1


def _warn_of_end(server: Server) -> None:
    print(
        f"{server.program.title} ended by itself (exit code {server.process.returncode}), its log "
        f"is {server.program.log_path}: stop this command and start it again.",
        file=sys.stderr,
    )


def _say_progress(text: str) -> None:
    _report(progress=text)


def _report(**message: object) -> None:
    with suppress(BrokenPipeError):  # the owner is gone, which ends us in a moment
        os.write(sys.stdout.fileno(), f"{json.dumps(message)}\n".encode())


def _exit_once(*_: object) -> None:
    signal.signal(signal.SIGTERM, signal.SIG_IGN)  # a second one must not cut the stopping short
    sys.exit(0)


if __name__ == "__main__":
    sys.exit(main())
