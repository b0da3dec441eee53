"""Which tests run which function.

Coverage records it once for each test file and the modules that it is run for, and again when the
file changes. A function that runs when the application starts is recorded for one test only, so the
tests named like its module count too.
"""

import hashlib
import json
import re
from collections.abc import Iterable
from pathlib import Path
from typing import Any

from coverage import CoverageData

from dev.mutate.mutants import Module
from dev.mutate.workplace import Workplace
from dev.terminal import say


class Recording:
    """`_files` has for each test file its digest, the seconds of its tests, and what they run.

    It also has the modules whose functions were looked for, because a file can test several groups.
    The tests of a mutant take at most `seconds` when nothing is mutated.
    """

    def __init__(self, file: Path, seconds: float) -> None:
        self._file, self._seconds = file, seconds
        self._files: dict[str, Any] = {}
        if file.exists():
            self._files = json.loads(file.read_text(encoding="utf-8"))

    def update(self, work: Workplace, tests: Iterable[str], modules: dict[str, Module]) -> None:
        digests = {name: _digest(work.folder / name) for name in tests}
        new = [one for one in digests if modules.keys() - self._recorded_for(one, digests[one])]
        if new:
            say(f"Recording which functions the tests of {len(new)} files run")
            self._record(work, new, digests, modules)
            self._file.write_text(json.dumps(self._files), encoding="utf-8")

    def _recorded_for(self, name: str, digest: str) -> set[str]:
        """Return the modules that the test file, as it is now, was recorded for."""
        file = self._files.get(name, {})
        return set(file.get("modules", ())) if file.get("digest") == digest else set()

    def _record(
        self, work: Workplace, new: list[str], digests: dict[str, str], modules: dict[str, Module]
    ) -> None:
        data_file = work.folder / ".coverage"
        _, output = work.run(
            *("-n", "auto", "--dist", "worksteal", "--cov", "--cov-context=test", "--cov-report="),
            *("--cov-fail-under=0", "--durations=0", "--durations-min=0", *new),
        )
        for name in new:
            recorded = self._recorded_for(name, digests[name])
            self._files[name] = {
                "digest": digests[name],
                "modules": sorted(recorded | modules.keys()),
                "seconds": {},
                "functions": self._files[name]["functions"] if recorded else {},
            }
        for seconds, test in re.findall(r"^([\d.]+)s call +(tests/.+)$", output, re.MULTILINE):
            self._files[test.partition("::")[0]]["seconds"][test] = float(seconds)
        for test in re.findall(r"^(?:FAILED|ERROR) (\S+::.+?)(?: - .*)?$", output, re.MULTILINE):
            say(f"{test} fails without a mutation, so it is not used")
            self._files[test.partition("::")[0]]["seconds"].pop(test, None)
        data = CoverageData(str(data_file))
        data.read()
        for path, module in modules.items():
            contexts = data.contexts_by_lineno(str((work.folder / path).resolve()))
            for function in module.functions:
                lines = module.lines_of(function)
                for test in {one for line in lines for one in contexts.get(line, ())}:
                    self._add(function, test.partition("|")[0])

    def _add(self, function: str, test: str) -> None:
        file = self._files.get(test.partition("::")[0])
        if file is not None and test in file["seconds"]:
            tests = file["functions"].setdefault(function, [])
            if test not in tests:
                tests.append(test)

    def tests_of(self, function: str) -> dict[str, float]:
        """The tests to run for a mutant of the function, and the seconds that each took.

        First come the tests of its own module that run it, and quick tests before slow ones. Files
        take turns, because the tests of one file often look at the same thing. A function that runs
        only when its module is imported has all tests.
        """
        path = Path(function.partition("::")[0].removeprefix("app/"))
        own = f"tests/{path.parent}/test_{path.stem}"
        is_recorded = any(function in file["functions"] for file in self._files.values())
        ranked = list[tuple[bool, bool, int, float, str]]()
        for name, file in self._files.items():
            reaching = set(file["functions"].get(function, ()))
            is_own = name.startswith(own)
            for turn, test in enumerate(sorted(file["seconds"], key=file["seconds"].get)):
                if test in reaching or is_own or not is_recorded:
                    seconds = file["seconds"][test]
                    ranked.append((test not in reaching, not is_own, turn, seconds, test))
        chosen, total = dict[str, float](), 0.0
        for *_, seconds, test in sorted(ranked):
            if not chosen or total + seconds <= self._seconds:
                chosen[test] = seconds
                total += seconds
        return chosen


def _digest(file: Path) -> str:
    return hashlib.sha256(file.read_bytes()).hexdigest()
