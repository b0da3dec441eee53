"""The verdicts of the fault cases, and the page that is made of them.

Each case runs twice: with the service unchanged, and as a control with one safeguard removed. The
first run must keep every promise, and the control must break one. A case whose control passes would
prove nothing, so this is a failure too.
"""

import os
from collections.abc import Sequence
from dataclasses import dataclass, field
from itertools import groupby
from pathlib import Path

GUARDED = "guarded"
HEAD = Path(__file__).with_name("page.md")


@dataclass(frozen=True)
class Verdict:
    """The result of one run of a case. `broken` lists the promises that were not kept."""

    case: str
    control: str
    figure: str
    broken: Sequence[str]

    @property
    def passed(self) -> bool:
        """Whether the unchanged service kept its promises, or the control broke one."""
        return bool(self.broken) == (self.control != GUARDED)


@dataclass
class Verdicts:
    """The verdicts of one test run."""

    given: list[Verdict] = field(default_factory=list)

    def judge(self, case: str, control: str, figure: str, broken: Sequence[str]) -> None:
        """Record the verdict, and fail the test if it is not the expected one."""
        verdict = Verdict(case, control, figure, broken)
        self.given.append(verdict)
        assert verdict.passed, (case, control, figure, broken)

    def table(self, seconds: float, commit: str) -> str:
        """Return the page, with one row for each case and its control."""
        head = HEAD.read_text(encoding="utf-8").format(
            minutes=max(1, round(seconds / 60)),
            cores=os.cpu_count(),
            commit=commit,
        )
        cases = groupby(self.given, lambda verdict: verdict.case)
        return head + "".join(_row(case, list(verdicts)) for case, verdicts in cases)


def _row(case: str, verdicts: Sequence[Verdict]) -> str:
    held = [found for found in verdicts if found.control == GUARDED]
    guarded = "; ".join(part for found in held for part in (found.figure, *found.broken))
    controls = [found for found in verdicts if found.control != GUARDED]
    names = "; ".join(found.control for found in controls)
    seen = "; ".join(found.broken[0] if found.broken else "nothing failed" for found in controls)
    passed = controls and all(found.passed for found in verdicts)
    return f"| {case} | {guarded} | {names} | {seen} | {'yes' if passed else '**no**'} |\n"
