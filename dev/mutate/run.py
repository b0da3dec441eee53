"""Tests each mutant, and reports the mutants that no test notices."""

import difflib
import re
import time
import tomllib
from collections.abc import Iterator
from itertools import accumulate
from pathlib import Path

from dev.mutate.mutants import Mutant
from dev.mutate.recording import Recording
from dev.mutate.workplace import Workplace
from dev.servers import ROOT
from dev.terminal import CommandError, StatusLine, say

EQUIVALENT = Path(__file__).with_name("equivalent.toml")
# A test run may take this long to start, and its tests this many times as long as they took before.
_START_SECONDS, _SLACK = 30.0, 5.0
# The first tests of a mutant take this long. Most mutants fail one of them, or hang in it.
_FIRST_SECONDS = 5.0
# So many tests that failed are run again together, without a mutation.
_CONTROLLED = 20
ADVICE = f"""
For each of them, write a test of what a user would notice, and see it fail with this change.
If nobody could notice the change, remove the code, or add the change with the reason to
{EQUIVALENT.relative_to(ROOT)}. Then run the command again."""


def equivalent() -> set[str]:
    """Return the keys of the mutants that behave like the original."""
    entries = tomllib.loads(EQUIVALENT.read_text(encoding="utf-8")).get("mutant", [])
    return {f"{entry['function']}: {entry['change']}" for entry in entries}


class Run:
    def __init__(self, work: Workplace, recording: Recording, results: Path, end: float) -> None:
        self._work, self._recording, self._results, self._end = work, recording, results, end
        self._survivors, self._undecided = list[Mutant](), list[Mutant]()
        self._status = StatusLine()
        self._failed = dict[Mutant, str]()  # the test that failed, until it is known why

    def test(self, mutants: list[Mutant]) -> None:
        known = (
            set(self._results.read_text(encoding="utf-8").splitlines())
            if self._results.exists()
            else set()
        )
        skipped = equivalent()
        left = [one for one in mutants if one.result not in known and one.key not in skipped]
        say(f"{len(mutants)} mutants, {len(left)} of them to test")
        for number, mutant in enumerate(left, 1):
            if time.monotonic() > self._end:
                self._undecided += left[number - 1 :]
                break
            self._status.show(f"{number} of {len(left)}: {mutant.function}")
            self._test(mutant)
            if len(self._failed) == _CONTROLLED:
                self._control()
        self._control()

    def _test(self, mutant: Mutant) -> None:
        for tests in _parts(self._recording.tests_of(mutant.function)):
            seconds = _START_SECONDS + _SLACK * sum(tests.values())
            with self._work.mutated(mutant):
                code, output = self._work.run(*tests, "-x", seconds=seconds)
            failed = re.search(r"^(?:FAILED|ERROR) (\S+::.+?)(?: - .*)?$", output, re.MULTILINE)
            if failed:
                self._failed[mutant] = failed[1]
                return
            if code != 0 and self._work.run(*tests, "-x", seconds=seconds)[0] == 0:
                self._keep(mutant)  # it hung, or could not be imported
                return
            if code != 0:
                self._undecided.append(mutant)
                return
        self._survivors.append(mutant)
        self._status.finish(_describe(mutant))

    def _control(self) -> None:
        """Run the tests that failed without a mutation: they must pass."""
        if not self._failed:
            return
        _, output = self._work.run(*set(self._failed.values()))
        for mutant, test in self._failed.items():
            if re.search(rf"^(FAILED|ERROR) {re.escape(test)}( - |$)", output, re.MULTILINE):
                self._status.finish(f"{test} fails without a mutation too")
                self._undecided.append(mutant)
            else:
                self._keep(mutant)
        self._failed.clear()

    def _keep(self, mutant: Mutant) -> None:
        with self._results.open("a", encoding="utf-8") as file:
            file.write(f"{mutant.result}\n")

    def report(self) -> None:
        if self._undecided:
            say(f"{len(self._undecided)} mutants are left. Run the command again to go on.")
        if self._survivors:
            changes = "\n".join(map(_describe, self._survivors))
            raise CommandError(f"{changes}\n{len(self._survivors)} mutants survived.{ADVICE}")
        say("No other mutant survived." if self._undecided else "No mutant survived.")


def _parts(tests: dict[str, float]) -> Iterator[dict[str, float]]:
    """Yield the tests of the first few seconds, and then the others. No part is empty."""
    ends = accumulate(tests.values())
    first = {
        test: tests[test] for test, end in zip(tests, ends, strict=True) if end < _FIRST_SECONDS
    }
    rest = {test: seconds for test, seconds in tests.items() if test not in first}
    yield from filter(None, (first, rest))


def _describe(mutant: Mutant) -> str:
    original = (ROOT / mutant.path).read_text(encoding="utf-8")
    lines = difflib.unified_diff(
        original.splitlines(), mutant.source.splitlines(), n=2, lineterm=""
    )
    return "\n".join([f"\n{mutant.path}:{mutant.line} survived: {mutant.key}", *list(lines)[2:]])
