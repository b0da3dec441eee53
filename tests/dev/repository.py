"""A copy of this repository, for tests of the commands that change it."""

import shutil
import subprocess
from pathlib import Path

PROJECT = Path(__file__).parents[2]


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
