"""What Gunicorn's master does besides: it tells its workers that the whole instance ends.

They could not know. A worker gets the same SIGTERM when it alone is replaced, and then must neither
become unready nor turn anybody away.
"""

import os
import signal
import sys
from types import FrameType

from gunicorn.arbiter import Arbiter

from app.infra.server.load_table import TABLE, End


def tell_workers_of_the_end(server: Arbiter) -> None:
    """Let SIGTERM end the instance in order, and a second one at once."""

    def end(number: int, frame: FrameType | None) -> None:
        if os.getpid() != server.pid:
            sys.exit(0)  # a worker that has only just been forked, and would not hear of it
        again = TABLE.end is not End.NOT_YET
        TABLE.end = End.AT_ONCE if again else End.IN_ORDER
        server.signal(signal.SIGQUIT if again else number, frame)

    signal.signal(signal.SIGTERM, end)
