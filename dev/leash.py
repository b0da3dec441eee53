"""Runs a command that must not outlive its owner: `python -m dev.leash DESCRIPTOR COMMAND…`.

DESCRIPTOR is the read end of a pipe whose write end only the owner holds. When the owner closes it,
or dies in whatever way, the command is asked to end with SIGTERM. The exit code is the command's.
"""

import os
import signal
import subprocess
import sys
import threading


def main() -> int:
    """Run the command to its end."""
    descriptor, command = int(sys.argv[1]), sys.argv[2:]
    child = subprocess.Popen(command)
    signal.signal(signal.SIGTERM, lambda *_: child.terminate())
    threading.Thread(target=_end_with_owner, args=(descriptor, child), daemon=True).start()
    code = child.wait()
    return code if code >= 0 else 128 - code


def _end_with_owner(descriptor: int, child: subprocess.Popen[bytes]) -> None:
    os.read(descriptor, 1)  # nothing is ever written: it returns at the end of the pipe
    child.terminate()


if __name__ == "__main__":
    sys.exit(main())
