"""What the master does when it is told to end, and what becomes of a worker that it just forked."""

import signal
import subprocess
import sys

import pytest

FORKED = """
import os, signal, sys
from types import SimpleNamespace
from app.infra.server.load_table import TABLE
from app.infra.server.master import tell_workers_of_the_end

number = signal.Signals(int(sys.argv[1]))
heard = []
tell_workers_of_the_end(SimpleNamespace(pid=os.getpid(), signal=lambda *it: heard.append(it[0])))
if os.fork() == 0:
    signal.raise_signal(number)
    os._exit(1)
status = os.wait()[1]
signal.raise_signal(number)
print(status, TABLE.end.name, *(signal.Signals(it).name for it in heard))
"""


@pytest.mark.parametrize(
    ("number", "told"),
    [
        (signal.SIGTERM, "0 IN_ORDER SIGTERM"),
        (signal.SIGINT, "0 AT_ONCE SIGQUIT"),
        (signal.SIGQUIT, "0 AT_ONCE SIGQUIT"),
    ],
)
def test_a_worker_that_was_just_forked_ends_and_the_others_are_told(
    number: signal.Signals, told: str
) -> None:
    command = [sys.executable, "-c", FORKED, str(int(number))]
    ran = subprocess.run(command, capture_output=True, encoding="utf-8", check=True)
    assert ran.stdout.strip() == told
