"""Runs modules of the environment, such as ruff, on the files of this repository."""

import subprocess
import sys

from dev.servers import ROOT
from dev.terminal import CommandError


def run_module(module: str, *arguments: str) -> None:
    """Run a module. Show the end of its output if it fails."""
    result = subprocess.run(
        [sys.executable, "-m", module, *arguments],
        cwd=ROOT,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        encoding="utf-8",
        check=False,
    )
    if result.returncode:
        print(*result.stdout.splitlines()[-20:], sep="\n", file=sys.stderr)
        raise CommandError(f"{module} failed, as it says above.")


def format_files(*paths: str) -> None:
    """Remove the imports that nothing uses any more, sort the others, and format the files."""
    run_module("ruff", "check", "--fix-only", "--quiet", *paths)
    run_module("ruff", "format", "--quiet", *paths)
