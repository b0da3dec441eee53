"""`make check`: runs all tools at the same time, and lists all of them that fail.

Neither the service nor a package is imported, so that it runs however broken they are. The hooks of
.pre-commit-config.yaml name the checks that they need: `python -m dev.check format lint imports`.
"""

import os
import subprocess
import sys
from collections.abc import Collection, Sequence
from concurrent.futures import FIRST_COMPLETED, ThreadPoolExecutor, wait
from dataclasses import dataclass
from importlib.util import find_spec
from pathlib import Path

from dev.terminal import CommandError, StatusLine, say

ROOT = Path(__file__).parents[1]


@dataclass(frozen=True)
class Check:
    """A tool: its package, the arguments with which Python runs it, and what to do if it fails."""

    package: str
    arguments: Sequence[str]
    cure: str


# mypy comes first, because it takes longest. What the tools read is in pyproject.toml.
CHECKS = {
    "types": Check("mypy", ("-m", "mypy"), "Correct the types that mypy reports above."),
    "imports": Check(
        "importlinter",
        ("-c", "from importlinter.cli import lint_imports_command as lint; lint()", "--no-logo"),
        "Remove the import that breaks a contract. The contracts are in pyproject.toml.",
    ),
    "lint": Check(
        "ruff",
        ("-m", "ruff", "check"),
        "Correct the errors above. `make fmt` corrects some of them.",
    ),
    "format": Check(
        "ruff", ("-m", "ruff", "format", "--check"), "Correct the format with: make fmt"
    ),
}


def check(names: Collection[str]) -> None:
    """Run the checks, and show what those that fail print."""
    _require_packages(names)
    status, failed = StatusLine(), list[str]()
    with ThreadPoolExecutor(len(CHECKS)) as threads:
        running = {threads.submit(_run, CHECKS[name]): name for name in names}
        while running:
            status.show(f"Checking {', '.join(running.values())}")
            for done in wait(running, return_when=FIRST_COMPLETED).done:
                name, result = running.pop(done), done.result()
                status.finish(f"{name:8} {'failed' if result.returncode else 'passed'}")
                if result.returncode:
                    say(result.stdout)
                    failed.append(name)
    if failed:
        cures = "".join(f"\n  {name:8} {CHECKS[name].cure}" for name in failed)
        raise CommandError(f"Failed: {', '.join(failed)}.{cures}")


def _require_packages(names: Collection[str]) -> None:
    """Refuse an environment that has only what the service needs, which `make run` installs."""
    missing = {CHECKS[name].package for name in names if not find_spec(CHECKS[name].package)}
    if missing:
        raise CommandError(f"Not in .venv: {', '.join(sorted(missing))}. Run: make environment")


def _run(check: Check) -> subprocess.CompletedProcess[str]:
    colours = {"FORCE_COLOR": "1", "CLICOLOR_FORCE": "1"}
    shows_colours = sys.stdout.isatty() and not os.environ.get("NO_COLOR")
    return subprocess.run(
        [sys.executable, *check.arguments],
        cwd=ROOT,
        env={**os.environ, **(colours if shows_colours else {})},
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        encoding="utf-8",
        errors="replace",
        check=False,
    )


if __name__ == "__main__":
    try:
        check(sys.argv[1:] or CHECKS)
    except CommandError as error:
        sys.exit(str(error))
    except KeyboardInterrupt:
        sys.exit("Interrupted.")
