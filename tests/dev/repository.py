"""A copy of this repository, for tests of the commands that change it."""

import os
import shutil
import subprocess
import sys
from collections.abc import Mapping
from pathlib import Path

PROJECT = Path(__file__).parents[2]
# The variables of a copy. Others are meant for the tests that make it.
VARIABLES = ("PATH", "HOME", "TMPDIR", "LANG", "LC_ALL")


class Copy:
    """A copy of the repository with a history of its own, in which the Makefile works.

    It has the environment of this process, and the cache of mypy, without which each check of a
    copy would take twenty seconds.
    """

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.environment = {name: os.environ[name] for name in VARIABLES if name in os.environ}
        copy_repository(folder)
        if not (PROJECT / ".mypy_cache").exists():
            subprocess.run([sys.executable, "-m", "mypy"], cwd=PROJECT, check=False)
        shutil.copytree(PROJECT / ".mypy_cache", folder / ".mypy_cache")
        python = folder / ".venv" / "bin" / "python"
        python.parent.mkdir(parents=True)
        python.write_text(f'#!/bin/sh\nexec "{sys.executable}" "$@"\n', encoding="utf-8")
        python.chmod(0o755)
        # What dev/environment.sh expects of an environment that is complete.
        self.run("sh", "-c", "(pwd -P && cksum <requirements/dev.txt) >.venv/.installed")

    def run(
        self, *command: str, fails: bool = False, variables: Mapping[str, str] | None = None
    ) -> str:
        """Run a command, and return what it prints."""
        result = subprocess.run(
            command,
            cwd=self.folder,
            env=self.environment | dict(variables or {}),
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            encoding="utf-8",
            check=False,
        )
        assert bool(result.returncode) == fails, f"{' '.join(command)}\n{result.stdout}"
        return result.stdout

    def pytest(self, *arguments: str) -> str:
        options = ("-q", "-x", "-p", "no:cacheprovider")
        return self.run(sys.executable, "-m", "pytest", *options, *arguments)


def git(*arguments: str, cwd: Path) -> str:
    identity = ["-c", "user.name=Test", "-c", "user.email=test@example.com"]
    command = ["git", *identity, *arguments]
    return subprocess.run(
        command, cwd=cwd, check=True, capture_output=True, text=True, encoding="utf-8"
    ).stdout


def copy_repository(folder: Path) -> None:
    """Commit the files of this repository, as they are now, to a new one in the folder."""
    listed = ["ls-files", "--cached", "--others", "--exclude-standard", "-z"]
    for name in git(*listed, cwd=PROJECT).split("\0"):
        if name and (PROJECT / name).is_file():
            target = folder / name
            target.parent.mkdir(parents=True, exist_ok=True)
            shutil.copyfile(PROJECT / name, target)
    git("init", "-q", "-b", "main", cwd=folder)
    commit(folder)


def commit(folder: Path) -> None:
    git("add", "-A", cwd=folder)
    git("commit", "-q", "-m", "Change", cwd=folder)
