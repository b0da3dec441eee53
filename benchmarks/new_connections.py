"""Opens connections with h2load, and measures how long they wait for their answers.

The cost of a client in Python would be a large part of that time.
"""

import re
import subprocess

from benchmarks.load import find_tool
from dev.terminal import CommandError

H2LOAD = ("h2load", "nghttp2-client")
TIMEOUT_SECONDS = 30
MILLISECONDS = {"us": 1e-3, "ms": 1.0, "s": 1e3}
# The minimum comes first, then the maximum. Each is counted from when its connection was opened.
LONGEST_WAIT = re.compile(r"^time to 1st byte: +\S+ +([\d.]+)(us|ms|s) ", re.MULTILINE)


def longest_wait(url: str, connections: int) -> float:
    """Open connections with a request on each. Return the longest wait for an answer, in ms."""
    sizes = (f"--clients={connections}", f"--requests={connections}")
    limit = f"--connection-active-timeout={TIMEOUT_SECONDS}"
    run = subprocess.run(
        [find_tool(*H2LOAD), "--h1", *sizes, limit, url],
        capture_output=True,
        check=False,
        encoding="utf-8",
    )
    found = LONGEST_WAIT.search(run.stdout)
    if found is None or f" {connections} succeeded," not in run.stdout:
        raise CommandError(f"h2load failed:\n{run.stdout}{run.stderr}")
    return float(found[1]) * MILLISECONDS[found[2]]
