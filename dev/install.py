"""Installs a lock file in .venv, with nothing but the standard library and pip.

environment.sh calls it. pip installs uv, which installs the other packages: in 7 s instead of 36 s.
Where uv cannot, pip does it. Both check the hashes in the lock file.

The file .venv/.installed marks a complete environment, so an interrupted installation starts again.
Two calls at the same time take turns.
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
from pathlib import Path

from dev.terminal import CommandError, StatusLine, say

VENV = Path(".venv")
PYTHON = VENV / "bin" / "python"
STAMP = VENV / ".installed"
LOG = VENV / "install.log"
_NEEDED_MEGABYTES = {"run": 350, "dev": 550, "bench": 750}

UV = ("uv", "pip", "install", "--require-hashes", "--no-deps")
_PIP = ("pip", "install", "--require-hashes", "--no-deps", "--no-input", "--no-user")

# uv does not read pip's configuration. These of pip's settings are given to it as variables.
_VARIABLES = {"index-url": "UV_DEFAULT_INDEX", "cert": "SSL_CERT_FILE", "proxy": "ALL_PROXY"}

# What pip or venv print, and what to do. The first that matches is shown.
CURES = {
    r"No space left|Disk quota": "Free 500 MB on the disk",
    r"Permission denied|Read-only file": "Make this folder writable",
    r"DO NOT MATCH THE HASHES": "The package index has other files than the lock: `git pull`",
    r"CERTIFICATE_VERIFY": "Name the index's certificate: `pip config set global.cert FILE`",
    r"Retrying|Connection|timed out": "The package index cannot be reached: check the network",
    r"No matching distribution": (
        "The package above does not exist for this system and this version of Python. Use another "
        "version: `make run PYTHON=python3.13`, or another system (README, Other systems)"
    ),
    r"ensurepip is not available|No module named (venv|ensurepip)": (
        "Install the venv module of Python (python3-venv on Debian and Ubuntu)"
    ),
}


def main(lock: str, stamp: str) -> None:
    """Bring .venv to the state that the stamp describes: its path, and a checksum of the lock."""
    with _turn() as had_to_wait:
        old_stamp = ""
        if STAMP.exists():
            old_stamp = STAMP.read_text(encoding="utf-8", errors="surrogateescape")
        if had_to_wait and old_stamp == stamp:
            return
        STAMP.unlink(missing_ok=True)
        was_moved = old_stamp.partition("\n")[0] != stamp.partition("\n")[0]
        if was_moved or not _has_pip():
            _create_environment(lock)
        _install(Path(f"requirements/{lock}.txt"))
        STAMP.write_text(stamp, encoding="utf-8", errors="surrogateescape")


@contextmanager
def _turn() -> Iterator[bool]:
    """Lock this clone's folder; yield whether another installation had to end before."""
    folder = os.open(".", os.O_RDONLY)
    had_to_wait = False
    try:
        try:
            fcntl.flock(folder, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            had_to_wait = True
            say("Waiting for another make that is installing packages here")
            fcntl.flock(folder, fcntl.LOCK_EX)
        yield had_to_wait
    finally:
        os.close(folder)


def _has_pip() -> bool:
    command = [str(PYTHON), "-m", "pip", "--version"]
    return (
        PYTHON.exists()
        and subprocess.run(command, capture_output=True, check=False).returncode == 0
    )


def _create_environment(lock: str) -> None:
    if VENV.is_symlink():
        raise CommandError(
            ".venv is a link to another folder, which the installation would empty. Remove the "
            "link, then run the same command again."
        )
    # venv does not report that the disk was full.
    if shutil.disk_usage(".").free < _NEEDED_MEGABYTES[lock] * 1_000_000:
        raise _failure("No space left")
    say(f"Creating .venv with Python {sys.version.split()[0]}")
    command = [sys.executable, "-m", "venv", "--clear", str(VENV)]
    result = subprocess.run(
        command, capture_output=True, encoding="utf-8", errors="replace", check=False
    )
    if result.returncode:
        raise _failure(result.stdout + result.stderr)


def _install(requirements: Path) -> None:
    LOG.write_text("", encoding="utf-8")
    locked = requirements.read_text(encoding="utf-8")
    packages = len(re.findall(r"^[\w.-]+(?:\[.*\])?==", locked, re.MULTILINE))
    if not (_get_uv(locked) and _install_with_uv(requirements, packages)):
        say(f"uv cannot install the packages here, so pip does ({LOG} says why)")
        _install_with_pip(requirements, packages)


def _get_uv(locked: str) -> bool:
    """Install uv; return False if there is no wheel of it for this machine."""
    found = re.search(r"^uv==(.*\\\n)*.*", locked, re.MULTILINE)
    assert found is not None
    requirements = VENV / "uv.txt"
    requirements.write_text(found[0], encoding="utf-8")
    command = [*_PIP, "--only-binary=:all:", "-r", str(requirements)]
    code, output = _run(command, "Fetching uv")
    if code and "No matching distribution" not in output:
        raise _failure(output)
    return not code


def _install_with_uv(requirements: Path, packages: int) -> bool:
    command = [*UV, f"--python={PYTHON}", "-r", str(requirements)]
    if sys.dont_write_bytecode:
        command.append("--compile-bytecode")
    code, _ = _run(command, f"Installing {packages} packages", _index_variables())
    return not code


def _install_with_pip(requirements: Path, packages: int) -> None:
    command = [*_PIP, "-r", str(requirements)]
    # Compiling the modules at their first import saves 2 s. Where Python may not keep the compiled
    # files, every start would have to compile them again.
    if not sys.dont_write_bytecode:
        command.append("--no-compile")
    code, output = _run(command, f"Installing {packages} packages with pip")
    if code:
        raise _failure(output)


def _run(module: list[str], title: str, variables: dict[str, str] | None = None) -> tuple[int, str]:
    """Run a module in .venv, with a status line; return its exit code and what it printed."""
    line, started, seen = StatusLine(), time.monotonic(), LOG.stat().st_size
    environment = (variables or {}) | os.environ
    with (
        LOG.open("ab") as log,
        subprocess.Popen(
            [str(PYTHON), "-m", *module], stdout=log, stderr=log, env=environment
        ) as process,
    ):
        while process.poll() is None:
            line.show(f"{title} ({time.monotonic() - started:.0f} s)")
            time.sleep(0.1)
    took = f"{time.monotonic() - started:.0f} s"
    line.finish(f"{title}: failed" if process.returncode else f"{title}: done in {took}")
    return process.returncode, LOG.read_bytes()[seen:].decode(errors="replace")


def _index_variables() -> dict[str, str]:
    """Return what makes uv use the package index that pip uses, and reach it in the same way."""
    command = [str(PYTHON), "-m", "pip", "config", "list"]
    listed = subprocess.run(command, capture_output=True, encoding="utf-8", check=False).stdout
    settings = re.findall(r"^[\w:]+\.([\w-]+)='(.*)'$", listed, re.MULTILINE)
    return {_VARIABLES[name]: value for name, value in settings if name in _VARIABLES}


def _failure(output: str) -> CommandError:
    print(*output.splitlines()[-15:], sep="\n", file=sys.stderr)
    cures = (cure for pattern, cure in CURES.items() if re.search(pattern, output))
    cure = next(cures, "Correct the error above")
    return CommandError(f"{cure}, then run the same command again.")


if __name__ == "__main__":
    try:
        main(*sys.argv[1:])
    except CommandError as error:
        sys.exit(str(error))
    except OSError as error:
        sys.exit(str(_failure(str(error))))
    except KeyboardInterrupt:
        sys.exit("Interrupted. Run make again to finish the installation.")
