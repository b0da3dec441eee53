"""What Gunicorn's master does besides: it tells of the end, and reloads only what would start.

Workers could not know of the end. A worker gets the same SIGTERM when it alone is replaced, and
then must neither become unready nor turn anybody away.
"""

import os
import signal
import subprocess
import sys
from types import FrameType

from gunicorn.arbiter import Arbiter

from app.infra.server.load_table import TABLE, End
from app.infra.server.metrics_files import FOLDER

MOST_SECONDS = 30


def tell_workers_of_the_end(server: Arbiter) -> None:
    """Let SIGTERM end the instance in order, and a second one at once."""

    def end(number: int, frame: FrameType | None) -> None:
        if os.getpid() != server.pid:
            sys.exit(0)  # a worker that has only just been forked, and would not hear of it
        again = TABLE.end is not End.NOT_YET
        TABLE.end = End.AT_ONCE if again else End.IN_ORDER
        server.signal(signal.SIGQUIT if again else number, frame)

    signal.signal(signal.SIGTERM, end)


def reload_only_what_starts(server: Arbiter) -> None:
    """Let SIGHUP change nothing while the application would not start.

    Gunicorn's master would end at a setting that is refused, and at code that does not import.
    """
    reload = server.reload

    def reload_what_starts() -> None:
        if (reason := _why_it_does_not_start()) is None:
            reload()
        else:
            server.log.error("Not reloaded, what ran runs on. %s", reason)

    server.reload = reload_what_starts


def _why_it_does_not_start() -> str | None:
    """Import the application in another process, and return what is wrong with it."""
    environment = {name: value for name, value in os.environ.items() if name != FOLDER}
    try:
        tried = subprocess.run(
            [sys.executable, "-c", "import app.main"],
            env=environment,
            capture_output=True,
            text=True,
            timeout=MOST_SECONDS,
        )
    except subprocess.TimeoutExpired:
        return f"The application takes longer than {MOST_SECONDS} s to import."
    return tried.stderr.strip() if tried.returncode else None
