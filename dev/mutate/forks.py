"""Runs pytest in forks of a process that has imported the libraries already.

A mutant needs few tests. Importing the libraries again for each mutant would take longer than they
do. Each fork imports the code of the repository itself, so it sees the mutation.
"""

import gc
import json
import os
import signal
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from importlib import import_module
from importlib.metadata import entry_points
from pathlib import Path
from select import select

import pytest

# How long an interrupted test run may take to stop what it started.
_END_SECONDS = 20.0


class Forks:
    """The parent of the forks. Its pipes have no buffer, so `select` sees each answer."""

    def __init__(self, process: subprocess.Popen[bytes]) -> None:
        assert process.stdin is not None
        assert process.stdout is not None
        self._requests, self._answers = process.stdin, process.stdout

    def run(self, arguments: list[str], output: str, seconds: float | None) -> int | None:
        """Return the exit code of pytest, or None if it took too long."""
        self._requests.write(json.dumps([output, *arguments]).encode() + b"\n")
        fork = int(self._answers.readline())
        code: int | None = None
        try:
            code = self._wait(seconds)
        finally:
            if code is None:
                self._end(fork)
        return code

    def _end(self, fork: int) -> None:
        """End the test run by an interrupt, so that it stops what it started."""
        os.kill(fork, signal.SIGINT)
        if self._wait(_END_SECONDS) is None:
            os.killpg(fork, signal.SIGKILL)
            self._wait(None)

    def _wait(self, seconds: float | None) -> int | None:
        if not select([self._answers], [], [], seconds)[0]:
            return None
        return int(self._answers.readline())


@contextmanager
def open_forks(folder: Path, environment: dict[str, str]) -> Iterator[Forks]:
    with subprocess.Popen(
        [sys.executable, "-m", "dev.mutate.forks", *_libraries(folder, environment)],
        cwd=folder,
        env=environment,
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        bufsize=0,
        process_group=0,  # Ctrl-C does not reach it: it ends when its input ends
    ) as process:
        yield Forks(process)


def _libraries(folder: Path, environment: dict[str, str]) -> list[str]:
    """Return the modules that the tests import from elsewhere, and the plugins of pytest."""
    command = [sys.executable, "-c", "import sys, tests.conftest; print(*sys.modules)"]
    printed = subprocess.check_output(command, cwd=folder, env=environment, encoding="utf-8")
    libraries = [name for name in printed.split() if not (folder / name.partition(".")[0]).exists()]
    return libraries + [plugin.module for plugin in entry_points(group="pytest11")]


def main() -> None:
    for name in sys.argv[1:]:
        with suppress(ImportError):
            import_module(name)
    gc.freeze()
    for line in sys.stdin:
        output, *arguments = json.loads(line)
        fork = os.fork()
        if fork == 0:
            _test(output, arguments)
        print(fork, flush=True)
        print(os.waitstatus_to_exitcode(os.waitpid(fork, 0)[1]), flush=True)


def _test(output: str, arguments: list[str]) -> None:
    os.setpgid(0, 0)
    # A command that a script started in the background ignores it, and so do its children.
    signal.signal(signal.SIGINT, signal.default_int_handler)
    os.dup2(os.open(os.devnull, os.O_RDONLY), 0)
    os.dup2(os.open(output, os.O_WRONLY), 1)
    os.dup2(1, 2)
    sys.exit(pytest.main(arguments))


if __name__ == "__main__":
    main()
