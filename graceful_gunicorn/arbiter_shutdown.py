"""How the arbiter (Gunicorn's master process) shuts the instance down.

A worker receives SIGTERM both when it alone is replaced and when the whole instance shuts down. If
it alone is replaced, it must neither fail its readiness checks nor reject a request. The worker
cannot tell the two cases apart, so the master records a shutdown of the instance in the shared
state.
"""

import os
import signal
import sys
from types import FrameType

from gunicorn.arbiter import Arbiter
from gunicorn.errors import HaltServer

from graceful_gunicorn.shared_state import SHARED_STATE, Shutdown


def announce_instance_shutdown(arbiter: Arbiter) -> None:
    """Make the master tell its workers about a shutdown before it handles the signal.

    The first SIGTERM shuts the instance down gracefully. A second SIGTERM, SIGINT or SIGQUIT shuts
    it down immediately.
    """

    def shut_down(number: int, frame: FrameType | None) -> None:
        if os.getpid() != arbiter.pid:
            # A worker that has only just been forked still has this handler of the master. It exits
            # here, because otherwise the signal would be lost.
            sys.exit(0)
        is_immediate = number != signal.SIGTERM or SHARED_STATE.shutdown is not Shutdown.NONE
        SHARED_STATE.shutdown = Shutdown.IMMEDIATE if is_immediate else Shutdown.GRACEFUL
        arbiter.signal(signal.SIGQUIT if is_immediate else number, frame)

    for number in (signal.SIGTERM, signal.SIGINT, signal.SIGQUIT):
        signal.signal(number, shut_down)


def halt_only_once(arbiter: Arbiter) -> None:
    """Shut down cleanly when several workers cannot boot at the first start.

    Gunicorn raises HaltServer for each of these workers. A second HaltServer would interrupt the
    shutdown that the first one has begun, and end the master with a traceback.
    """
    reap_workers, is_halting = arbiter.reap_workers, False

    def reap_all_workers() -> None:
        nonlocal is_halting
        while True:
            try:
                reap_workers()
            except HaltServer:
                if not is_halting and SHARED_STATE.shutdown is Shutdown.NONE:
                    is_halting = True
                    raise
            else:
                return

    arbiter.reap_workers = reap_all_workers
