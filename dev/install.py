"""Installs requirements/dev.txt in .venv, with nothing but the standard library.

environment.sh calls it. The file .venv/.installed marks a complete environment, so an interrupted
installation starts again. Two calls at the same time take turns.
"""

import fcntl
import os
import re
import shutil
import subprocess
import sys
import time
from pathlib import Path

from dev.terminal import CommandError, StatusLine, say

VENV = Path(".venv")
PYTHON = VENV / "bin" / "python"
STAMP = VENV / ".installed"
LOG = VENV / "install.log"
REQUIREMENTS = Path("requirements/dev.txt")
# The environment takes about 460 MB. venv does not report that the disk was full.
_NEEDED_BYTES = 500_000_000

# What pip or venv print, and what to do. The first that matches is shown.
CURES = {
    r"No space left|Disk quota": "Free 500 MB on the disk",
    r"Permission denied|Read-only file": "Make this folder writable",
    r"DO NOT MATCH THE HASHES": "The package index has other files than the lock: `git pull`",
    r"CERTIFICATE_VERIFY": "Name the index's certificate: `pip config set global.cert FILE`",
    r"Retrying|Connection|timed out": "The package index cannot be reached: check the network",
    r"No matching distribution": "Use another version of Python: `make run PYTHON=python3.13`",
    r"ensurepip is not available|No module named (venv|ensurepip)": (
        "Install the venv module of Python (python3-venv on Debian and Ubuntu)"
    ),
}


def main(stamp: str) -> None:
    """Bring .venv to the state that the stamp describes: its path, and a checksum of the lock."""
    had_to_wait = _take_turn()
    old_stamp = ""
    if STAMP.exists():
        old_stamp = STAMP.read_text(encoding="utf-8", errors="surrogateescape")
    if had_to_wait and old_stamp == stamp:
        return
    STAMP.unlink(missing_ok=True)
    was_moved = old_stamp.partition("\n")[0] != stamp.partition("\n")[0]
    if was_moved or not _has_pip():
        _create_environment()
    _install_packages()
    STAMP.write_text(stamp, encoding="utf-8", errors="surrogateescape")


def _take_turn() -> bool:
    """Lock this clone's folder until this process ends; return whether another one had to end."""
    folder = os.open(".", os.O_RDONLY)
    try:
        fcntl.flock(folder, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        say("Waiting for another make that is installing packages here")
        fcntl.flock(folder, fcntl.LOCK_EX)
        return True
    return False


def _has_pip() -> bool:
    command = [str(PYTHON), "-m", "pip", "--version"]
    return (
        PYTHON.exists()
        and subprocess.run(command, capture_output=True, check=False).returncode == 0
    )


def _create_environment() -> None:
    if VENV.is_symlink():
        raise CommandError(
            ".venv is a link to another folder, which the installation would empty. Remove the "
            "link, then run the same command again."
        )
    if shutil.disk_usage(".").free < _NEEDED_BYTES:
        raise _failure("No space left")
    say(f"Creating .venv with Python {sys.version.split()[0]} (half a minute, once)")
    command = [sys.executable, "-m", "venv", "--clear", str(VENV)]
    result = subprocess.run(
        command, capture_output=True, encoding="utf-8", errors="replace", check=False
    )
    if result.returncode:
        raise _failure(result.stdout + result.stderr)


def _install_packages() -> None:
    options = ["--require-hashes", "--no-deps", "--no-input", "--no-user", "--progress-bar=off"]
    # Compiling the modules at their first import saves 2 s. Where Python may not keep the compiled
    # files, every start would have to compile them again.
    if not sys.dont_write_bytecode:
        options.append("--no-compile")
    command = [str(PYTHON), "-m", "pip", "install", *options, "-r", str(REQUIREMENTS)]
    line, started = StatusLine(), time.time()
    with LOG.open("wb") as log, subprocess.Popen(command, stdout=log, stderr=log) as pip:
        while pip.poll() is None:
            line.show(_progress(started))
            time.sleep(0.2)
    if pip.returncode:
        line.finish(f"pip failed. The last lines of its log, {LOG}:")
        raise _failure(LOG.read_text(encoding="utf-8", errors="replace"))
    line.finish(f"Installed {_installed_since(started)} packages")


def _progress(started: float) -> str:
    log = LOG.read_text(encoding="utf-8", errors="replace")
    if found := re.search(r"^Installing collected packages: (.*)$", log, re.MULTILINE):
        return f"Installing packages: {_installed_since(started)} of {found[1].count(',') + 1}"
    requirements = REQUIREMENTS.read_text(encoding="utf-8")
    locked = len(re.findall(r"^[\w.-]+(?:\[.*\])?==", requirements, re.MULTILINE))
    ignored = len(re.findall(r"^Ignoring ", log, re.MULTILINE))
    seen = len(re.findall(r"^(?:Collecting|Processing|Requirement already) ", log, re.MULTILINE))
    return f"Downloading packages: {seen} of {locked - ignored}"


def _installed_since(started: float) -> int:
    found = VENV.glob("lib/python*/site-packages/*.dist-info")
    return sum(path.stat().st_mtime >= started for path in found)


def _failure(output: str) -> CommandError:
    print(*output.splitlines()[-15:], sep="\n", file=sys.stderr)
    cures = (cure for pattern, cure in CURES.items() if re.search(pattern, output))
    cure = next(cures, "Correct the error above")
    return CommandError(f"{cure}, then run the same command again.")


if __name__ == "__main__":
    try:
        main(sys.argv[1])
    except CommandError as error:
        sys.exit(str(error))
    except OSError as error:
        sys.exit(str(_failure(str(error))))
    except KeyboardInterrupt:
        sys.exit("Interrupted. Run make again to finish the installation.")
