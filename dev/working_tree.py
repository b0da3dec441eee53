"""The Git working tree of the current directory.

Only the standard library is imported: copier runs dev.rename before any package is installed.
"""

import shutil
import subprocess
from collections.abc import Iterator
from contextlib import contextmanager, suppress

from dev.terminal import CommandError, say


def require_clean_tree() -> None:
    """Refuse to change files if `git checkout .` would not take the change back exactly."""
    status = git("status", "--porcelain", "--", ".")
    if status is None:
        raise CommandError(
            "This folder is not in a Git repository, so a change could not be taken back. "
            "Run: git init && git add -A && git commit -m Start"
        )
    if status:
        raise CommandError(
            f"There are changes that are not committed:\n{status}\n"
            "Commit them, or put them aside with: git stash -u"
        )


@contextmanager
def undone_on_failure(*new_folders: str) -> Iterator[None]:
    """Take all changes back if this context fails. The tree was clean before.

    Git would leave in a new folder what it ignores, such as `__pycache__`.
    """
    try:
        yield
    except BaseException:
        for folder in new_folders:
            shutil.rmtree(folder, ignore_errors=True)
        git("checkout", "--quiet", "--", ".")
        git("clean", "--quiet", "--force", "-d")
        say("The files are as they were before.")
        raise


def git(*arguments: str) -> str | None:
    """Return what Git prints, or None if the command fails."""
    command = ["git", *arguments]
    try:
        result = subprocess.run(
            command, capture_output=True, text=True, encoding="utf-8", check=False
        )
    except FileNotFoundError:
        raise CommandError("Git is not installed. Install it, then try again.") from None
    return result.stdout.rstrip("\n") if result.returncode == 0 else None


def commit() -> str:
    """Return the commit, and whether files differ from it."""
    with suppress(CommandError):
        if found := git("describe", "--always", "--dirty", "--abbrev=12", "--exclude=*"):
            return found
    return "unknown"
