"""What happens when the master is told to shut down just after it has forked a worker."""

import signal
import subprocess
import sys

import pytest

SCRIPT = """
import os, signal, sys
from gunicorn.arbiter import Arbiter
from graceful_gunicorn import ServerConfig, guard_master
from graceful_gunicorn.shared_state import SHARED_STATE

number = signal.Signals(int(sys.argv[1]))
passed_on = []
Arbiter.signal = lambda self, number, frame: passed_on.append(number)
arbiter = object.__new__(Arbiter)
arbiter.pid = os.getpid()
guard_master(arbiter, ServerConfig(check_command=()))
if os.fork() == 0:
    signal.raise_signal(number)
    os._exit(1)
status = os.wait()[1]
signal.raise_signal(number)
print(status, SHARED_STATE.shutdown.name, *(signal.Signals(it).name for it in passed_on))
"""


@pytest.mark.parametrize(
    ("number", "expected"),
    [
        (signal.SIGTERM, "0 GRACEFUL SIGTERM"),
        (signal.SIGINT, "0 IMMEDIATE SIGQUIT"),
        (signal.SIGQUIT, "0 IMMEDIATE SIGQUIT"),
    ],
)
def test_a_worker_that_was_just_forked_exits_and_the_other_workers_are_told(
    number: signal.Signals, expected: str
) -> None:
    """The script prints the worker's exit status, the shared state, and the signal passed on."""
    command = [sys.executable, "-c", SCRIPT, str(int(number))]
    result = subprocess.run(command, capture_output=True, encoding="utf-8", check=True)
    assert result.stdout.strip() == expected
