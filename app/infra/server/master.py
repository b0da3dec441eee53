"""What Gunicorn's master does besides: it tells of the end, and reloads only what would start.

Workers could not know of the end. A worker gets the same SIGTERM when it alone is replaced, and
then must neither become unready nor turn anybody away.
"""

import os
import re
import signal
import subprocess
import sys
import tempfile
from ast import literal_eval
from collections.abc import Sequence
from types import FrameType

from gunicorn.arbiter import Arbiter
from gunicorn.errors import HaltServer
from gunicorn.util import parse_address

from app.infra.server.listening import error_of_listening
from app.infra.server.load_table import TABLE, End
from app.infra.server.metrics_files import FOLDER

# The check takes 1.5 s of processor time, and several times that on a busy machine.
CHECK_SECONDS = 30


def tell_workers_of_the_end(server: Arbiter) -> None:
    """Let SIGTERM end the instance in order, and a second one, SIGINT or SIGQUIT at once."""

    def end(number: int, frame: FrameType | None) -> None:
        if os.getpid() != server.pid:
            sys.exit(0)  # a worker that has only just been forked, and would not hear of it
        at_once = number != signal.SIGTERM or TABLE.end is not End.NOT_YET
        TABLE.end = End.AT_ONCE if at_once else End.IN_ORDER
        server.signal(signal.SIGQUIT if at_once else number, frame)

    for number in (signal.SIGTERM, signal.SIGINT, signal.SIGQUIT):
        signal.signal(number, end)


def halt_once(server: Arbiter) -> None:
    """End in order when several workers cannot boot at the first start.

    For each of them Gunicorn raises HaltServer. The second one would interrupt the shutdown that
    the first one began, and end the master with a traceback.
    """
    reap_workers, is_halting = server.reap_workers, False

    def reap_all_workers() -> None:
        nonlocal is_halting
        while True:
            try:
                reap_workers()
            except HaltServer:
                if not is_halting and TABLE.end is End.NOT_YET:
                    is_halting = True
                    raise
            else:
                return

    server.reap_workers = reap_all_workers


def reload_only_what_starts(server: Arbiter) -> None:
    """Let SIGHUP change nothing while the service would not start with the settings that it finds.

    Gunicorn's master would end. Once the end has been announced there is no reload any more.
    """
    reload = server.reload

    def reload_what_starts() -> None:
        reason = _why_it_does_not_start(server.cfg.address)
        if reason is not None:
            server.log.error(
                "Not reloaded. Correct this now: a worker that is replaced meets it too. %s", reason
            )
        elif TABLE.end is End.NOT_YET:
            reload()

    server.reload = reload_what_starts


def _why_it_does_not_start(own: Sequence[object]) -> str | None:
    """Load the configuration and the application in another process; return what is wrong.

    `own` are the addresses at which this instance listens.
    """
    with tempfile.TemporaryDirectory() as folder:  # for the counters, which are the master's own
        try:
            tried = subprocess.run(  # noqa: S603 - as this process was started
                [sys.executable, "-m", "app.serve", "--print-config", *sys.argv[1:]],
                env={**os.environ, FOLDER: folder},
                capture_output=True,
                timeout=CHECK_SECONDS,
            )
        except (OSError, subprocess.TimeoutExpired) as error:
            return str(error)
    if tried.returncode:
        said = tried.stderr.decode(errors="replace").strip()
        return said or f"It ended with {tried.returncode}."
    return _why_it_cannot_listen(tried.stdout.decode(errors="replace"), own)


def _why_it_cannot_listen(printed: str, own: Sequence[object]) -> str | None:
    """Try the addresses of a printed configuration that are not this instance's `own`."""
    found = re.search(r"^bind\s*=\s*(\[.*\])$", printed, re.MULTILINE)
    for address in literal_eval(found[1]) if found else []:
        if (place := parse_address(address)) in own:
            continue
        if (error := error_of_listening(*place)) is not None:
            return f"It cannot listen at {address}: {error.strerror}. Choose another port."
    return None
