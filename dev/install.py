"""Makes .venv from requirements/dev.txt with the standard library alone (see environment.sh).

The environment is complete or unmarked: what an interrupted install left is made anew by the next
call, and two calls at once take turns.
"""

import fcntl
import os
import re
import shutil
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from importlib.util import find_spec
from pathlib import Path

from dev.terminal import CommandError, StatusLine, say

VENV = Path(".venv")
PYTHON = VENV / "bin" / "python"
STAMP = VENV / ".installed"
LOG = VENV / "install.log"
REQUIREMENTS = Path("requirements/dev.txt")
# The environment itself is about 400 MB; venv does not tell when it lacked the room.
_NEEDED_BYTES = 500_000_000

# What pip or venv print, and the cure; the first that matches is told.
CURES = (
    (r"No space left|Disk quota", "The disk is full: free 500 MB"),
    (r"Permission denied|Read-only file", "This folder is not writable for you: make it so"),
    (r"DO NOT MATCH THE HASHES", "The index served other files than were locked: `git pull`"),
    (r"CERTIFICATE_VERIFY", "The index's certificate is not trusted here: set `pip config`'s cert"),
    (
        r"Retrying|Connection|timed out",
        "The package index is out of reach: check network and proxy",
    ),
    (r"No matching distribution", "The index has none for this Python: name another with PYTHON="),
)


def main(stamp: str) -> None:
    """Bring .venv to the state that the stamp (its path and the lock's checksum) describes."""
    with _turn() as waited:
        marked = (
            STAMP.read_text(encoding="utf-8", errors="surrogateescape") if STAMP.exists() else ""
        )
        if waited and marked == stamp:
            return
        STAMP.unlink(missing_ok=True)
        same_place = marked.partition("\n")[0] == stamp.partition("\n")[0]
        if not (same_place and _runs()):
            _create_environment()
        _install_packages()
        STAMP.write_text(stamp, encoding="utf-8", errors="surrogateescape")


def _runs() -> bool:
    try:
        command = [str(PYTHON), "-c", "import pip"]
        return subprocess.run(command, capture_output=True, check=False).returncode == 0
    except FileNotFoundError:
        return False


@contextmanager
def _turn() -> Iterator[bool]:
    """Hold this clone's lock; tell whether another process had to be waited for."""
    folder = os.open(".", os.O_RDONLY)  # its lock needs no file of its own
    waited = False
    try:
        fcntl.flock(folder, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        waited = True
        say("Waiting for another make that is installing here")
        fcntl.flock(folder, fcntl.LOCK_EX)
    try:
        yield waited
    finally:
        os.close(folder)


def _create_environment() -> None:
    if find_spec("venv") is None or find_spec("ensurepip") is None:
        package = f"python{sys.version_info.major}.{sys.version_info.minor}-venv"
        raise CommandError(
            f"{sys.executable} comes without venv: on Debian or Ubuntu `sudo apt install "
            f"{package}`, then run the same command again."
        )
    if shutil.disk_usage(".").free < _NEEDED_BYTES:
        raise CommandError("The disk is full: free 500 MB, then run the same command again.")
    say(f"Creating .venv with Python {sys.version.split()[0]} (half a minute, once)")
    command = [sys.executable, "-m", "venv", "--clear", str(VENV)]
    result = subprocess.run(
        command, capture_output=True, encoding="utf-8", errors="replace", check=False
    )
    if result.returncode:
        raise _failure(result.stdout + result.stderr)


def _install_packages() -> None:
    line, started = StatusLine(), time.time()
    with LOG.open("wb") as log, subprocess.Popen(_pip(), stdout=log, stderr=log) as pip:
        while pip.poll() is None:
            line.show(_progress(started))
            time.sleep(0.2)
    if pip.returncode:
        line.finish(f"pip failed; the end of its log, {LOG}:")
        raise _failure(LOG.read_text(encoding="utf-8", errors="replace"))
    line.finish(f"Packages installed: {_installed_since(started)}")


def _pip() -> list[str]:
    options = ["--require-hashes", "--no-deps", "--no-input", "--no-user", "--progress-bar=off"]
    # Compiling what the first start needs, when it needs it, is 2 s sooner than compiling all;
    # where Python may not keep what it compiled, every start would pay for it.
    if not sys.dont_write_bytecode:
        options.append("--no-compile")
    return [str(PYTHON), "-m", "pip", "install", *options, "-r", str(REQUIREMENTS)]


def _progress(started: float) -> str:
    log = LOG.read_text(encoding="utf-8", errors="replace")
    if found := re.search(r"^Installing collected packages: (.*)$", log, re.MULTILINE):
        return f"Installing packages {_installed_since(started)}/{found[1].count(',') + 1}"
    requirements = REQUIREMENTS.read_text(encoding="utf-8")
    locked = len(re.findall(r"^[\w.-]+(?:\[.*\])?==", requirements, re.MULTILINE))
    ignored = len(re.findall(r"^Ignoring ", log, re.MULTILINE))
    seen = len(re.findall(r"^(?:Collecting|Processing|Requirement already) ", log, re.MULTILINE))
    return f"Fetching packages {seen}/{locked - ignored}"


def _installed_since(started: float) -> int:
    """Count what pip itself does not report before its end."""
    found = VENV.glob("lib/python*/site-packages/*.dist-info")
    return sum(path.stat().st_mtime >= started for path in found)


def _failure(output: str) -> CommandError:
    print(*output.splitlines()[-15:], sep="\n", file=sys.stderr)
    cures = (cure for pattern, cure in CURES if re.search(pattern, output))
    cure = next(cures, "The packages could not be installed: correct what is said above")
    return CommandError(f"{cure}, then run the same command again.")


if __name__ == "__main__":
    try:
        main(sys.argv[1])
    except CommandError as error:
        sys.exit(str(error))
    except OSError as error:
        sys.exit(str(_failure(str(error))))
    except KeyboardInterrupt:
        sys.exit("Interrupted; the next make starts the installation again.")
