"""Runs a server, and stops it when the process that wanted it ends, even by SIGKILL.

    python -IS supervise.py LOCK STOP_SIGNAL KILL_AFTER COMMAND…

The other end of its standard input, a pipe, is held by the process that wants the server. When that
process ends, the system closes the pipe, and the server gets STOP_SIGNAL. If it still runs after
KILL_AFTER seconds (0: no limit), it is killed.

The server inherits an exclusive lock on the file LOCK, if that is not empty. The file holds its
process id. The lock lasts as long as the server, so a server that outlived a killed supervisor can
be found for certain: its process id alone could belong to another process by now.
"""

import fcntl
import os
import signal
import subprocess
import sys
import threading
from contextlib import suppress


def main() -> int:
    lock_path, stop_signal, kill_after, *command = sys.argv[1:]
    server = _start(command, lock_path)
    for number in (signal.SIGINT, signal.SIGTERM):
        signal.signal(number, lambda received, _: server.send_signal(received))
    arguments = (server, int(stop_signal), float(kill_after))
    threading.Thread(target=_stop_at_end_of_input, args=arguments, daemon=True).start()
    code = server.wait()
    return code if code >= 0 else 128 - code


def _start(command: list[str], lock_path: str) -> subprocess.Popen[bytes]:
    if not lock_path:
        return subprocess.Popen(command, stdin=subprocess.DEVNULL)
    with open(lock_path, "w", encoding="utf-8") as lock:  # noqa: PTH123 - pathlib loads slowly
        fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        server = subprocess.Popen(command, stdin=subprocess.DEVNULL, pass_fds=[lock.fileno()])
        lock.write(str(server.pid))
    return server


def _stop_at_end_of_input(
    server: subprocess.Popen[bytes], stop_signal: int, kill_after: float
) -> None:
    os.read(sys.stdin.fileno(), 1)  # nothing is ever written: this returns at the end of the pipe
    server.send_signal(stop_signal)
    with suppress(subprocess.TimeoutExpired):
        server.wait(kill_after or None)
        return
    server.kill()


if __name__ == "__main__":
    sys.exit(main())
