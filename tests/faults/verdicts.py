"""The judgement of a case: the service must keep its word, and its control must break it.

A case that passes without the guard as well proves nothing, so a control that holds is a failure.
"""

import os
from collections.abc import Sequence
from dataclasses import dataclass, field
from itertools import groupby

GUARDED = "guarded"
HEAD = """# The fault programme, measured

`make faults` writes this page anew (Linux, no root needed, about {minutes} minutes). Each case runs
twice: as the service is, and with one guard removed or replaced (`tests/faults/controls.py`), which
must fail. Times are those of {cores} cores, shared between the servers, the service with 2 workers
and the load.

| case | what was seen | control | what was seen without the guard | pass |
|---|---|---|---|---|
"""


@dataclass(frozen=True)
class Verdict:
    """What one run of a case showed. `broken` lists the promises that were not kept."""

    case: str
    control: str
    figure: str
    broken: Sequence[str]

    @property
    def passed(self) -> bool:
        """Whether the guarded service held, or the control did not."""
        return bool(self.broken) == (self.control != GUARDED)


@dataclass
class Verdicts:
    """All verdicts of a run of the tests."""

    given: list[Verdict] = field(default_factory=list)

    def judge(self, case: str, control: str, figure: str, broken: Sequence[str]) -> None:
        """Keep the verdict, and fail the test if it is not the one that was due."""
        verdict = Verdict(case, control, figure, broken)
        self.given.append(verdict)
        assert verdict.passed, (case, control, figure, broken)

    def table(self, seconds: float) -> str:
        """Write the page: one line a case, with its control beside it."""
        head = HEAD.format(minutes=max(1, round(seconds / 60)), cores=os.cpu_count())
        cases = groupby(self.given, lambda verdict: verdict.case)
        return head + "".join(_row(case, list(verdicts)) for case, verdicts in cases)


def _row(case: str, verdicts: Sequence[Verdict]) -> str:
    held = [found for found in verdicts if found.control == GUARDED]
    guarded = "; ".join(part for found in held for part in (found.figure, *found.broken))
    controls = [found for found in verdicts if found.control != GUARDED]
    names = "; ".join(found.control.replace("_", " ") for found in controls)
    seen = "; ".join(found.broken[0] if found.broken else "it held" for found in controls)
    passed = controls and all(found.passed for found in verdicts)
    return f"| {case} | {guarded} | {names} | {seen} | {'yes' if passed else '**no**'} |\n"
