"""Fault cases run only when `--faults` asks for them, whatever else selects tests."""

import os
import subprocess
import sys
from pathlib import Path

PROJECT = Path(__file__).parents[1]
FOLDER = "tests/features/users"
CASE = f"{FOLDER}/test_cached_caller.py::test_no_caller_is_taken_for_another_in_ten_thousand_pairs"


def collected(*arguments: str) -> list[str]:
    """Return the tests that pytest would run."""
    command = [sys.executable, "-m", "pytest", "--collect-only", "-q", *arguments]
    environment = {**os.environ, "PYTEST_ADDOPTS": ""}  # such as -v, which prints other lines
    listed = subprocess.run(
        command,
        cwd=PROJECT,
        env=environment,
        capture_output=True,
        check=False,
        encoding="utf-8",
    )
    assert listed.returncode in (0, 5), listed.stdout + listed.stderr  # 5: none was selected
    return [line for line in listed.stdout.splitlines() if "::" in line]


def test_fault_cases_run_only_with_the_option() -> None:
    assert CASE in collected(FOLDER, "--faults")
    without = collected(FOLDER)
    assert without
    assert CASE not in without
    assert not collected(CASE)
