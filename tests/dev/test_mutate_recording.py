"""Which tests `make mutate` runs for a function."""

import json
from pathlib import Path
from typing import Any

import pytest
from coverage import CoverageData

from dev.mutate.mutants import Module
from dev.mutate.recording import Recording

RECORDED = {
    "tests/a/test_module.py": {"quick": 1, "slow": 30, "elsewhere": 1},
    "tests/test_one.py": {"one": 2, "two": 3},
    "tests/test_other.py": {"other": 5},
}


@pytest.mark.parametrize(
    ("seconds", "chosen"),
    [
        (100, ["quick", "slow", "one", "other", "two", "elsewhere"]),
        (9, ["quick", "one", "other", "elsewhere"]),
        (0, ["quick"]),
    ],
)
def test_own_tests_come_first_and_then_files_take_turns(
    tmp_path: Path, seconds: float, chosen: list[str]
) -> None:
    function = "a/module.py::f"
    file = tmp_path / "tests.json"
    reaching = {"tests/a/test_module.py": ["quick", "slow"]}
    files = {
        name: {
            "digest": "",
            "seconds": {f"{name}::{test}": taken for test, taken in tests.items()},
            "functions": {function: [f"{name}::{test}" for test in reaching.get(name, tests)]},
        }
        for name, tests in RECORDED.items()
    }
    file.write_text(json.dumps(files), encoding="utf-8")
    recording = Recording(file, seconds)
    assert [test.partition("::")[2] for test in recording.tests_of(function)] == chosen
    assert len(recording.tests_of("b/module.py::runs_when_imported")) == len(chosen)


class FakeCoverage:
    """A workplace in which each test of a file runs one module, whichever modules are recorded."""

    def __init__(self, folder: Path, ran: dict[str, str]) -> None:
        self.folder, self._ran, self.runs = folder, ran, list[list[str]]()
        for name in [*ran.values(), *(test.partition("::")[0] for test in ran)]:
            (folder / name).parent.mkdir(exist_ok=True)
            (folder / name).write_text("def f():\n    pass\n", encoding="utf-8")

    def run(self, *arguments: str) -> tuple[int, str]:
        self.runs.append([name for name in arguments if name.startswith("tests/")])
        tests = [test for test in self._ran if test.partition("::")[0] in arguments]
        data = CoverageData(str(self.folder / ".coverage"))
        data.erase()
        for test in tests:
            data.set_context(f"{test}|run")
            data.add_lines({str(self.folder / self._ran[test]): [2]})
        data.write()
        return 0, "\n".join(f"0.10s call     {test}" for test in tests)

    def modules(self, *paths: str) -> dict[str, Module]:
        return {path: Module(self.folder, path) for path in paths}


def test_a_test_file_in_two_groups_is_recorded_for_the_functions_of_both(tmp_path: Path) -> None:
    fake: Any = FakeCoverage(
        tmp_path,
        {"tests/shared.py::a": "a.py", "tests/shared.py::b": "b.py", "tests/only_b.py::b": "b.py"},
    )

    def record() -> Recording:
        recording = Recording(tmp_path / "tests.json", 60)
        recording.update(fake, ["tests/shared.py"], fake.modules("a.py"))
        recording.update(fake, ["tests/shared.py", "tests/only_b.py"], fake.modules("b.py"))
        return recording

    recorded = record()
    assert list(recorded.tests_of("a.py::f")) == ["tests/shared.py::a"]
    assert list(recorded.tests_of("b.py::f")) == ["tests/only_b.py::b", "tests/shared.py::b"]
    record()
    assert fake.runs == [["tests/shared.py"], ["tests/shared.py", "tests/only_b.py"]]
    (tmp_path / "tests/shared.py").write_text("pass", encoding="utf-8")
    record()
    assert fake.runs[2:] == [["tests/shared.py"], ["tests/shared.py"]]
