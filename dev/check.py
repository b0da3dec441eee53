"""`make check`: runs all tools at the same time, and lists all of them that fail.

Neither the service nor a package is imported, so that it runs however broken they are. The hooks of
.pre-commit-config.yaml name the checks that they need: `python -m dev.check format lint imports`.
"""

import os
import subprocess
import sys
from collections.abc import Iterable, Sequence
from concurrent.futures import FIRST_COMPLETED, ThreadPoolExecutor, wait
from dataclasses import dataclass
from pathlib import Path

from dev.terminal import CommandError, StatusLine, say

ROOT = Path(__file__).parents[1]


@dataclass(frozen=True)
class Check:
    """The arguments with which Python runs a tool, and what to do if it fails."""

    arguments: Sequence[str]
    cure: str


# mypy comes first, because it takes longest. What the tools read is in pyproject.toml.
CHECKS = {
    "types": Check(("-m", "mypy"), "Correct the types that mypy reports above."),
    "imports": Check(
        ("-c", "from importlinter.cli import lint_imports_command as lint; lint()", "--no-logo"),
        "Remove the import that breaks a contract. The contracts are in pyproject.toml.",
    ),
    "lint": Check(
        ("-m", "ruff", "check"), "Correct the errors above. `make fmt` corrects some of them."
    ),
    "format": Check(("-m", "ruff", "format", "--check"), "Correct the format with: make fmt"),
}


def check(names: Iterable[str]) -> None:
    """Run the checks, and show what those that fail print."""
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
