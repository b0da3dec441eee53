"""`make mutate`: the changes that it makes, and what it reports."""

import ast
import os
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from textwrap import dedent, indent
from typing import Any, cast

import pytest

from dev.mutate.__main__ import PACKAGES, files
from dev.mutate.forks import open_forks
from dev.mutate.mutants import Module, Mutant
from dev.mutate.run import Run, equivalent
from dev.servers import ROOT
from dev.terminal import CommandError


def mutated() -> Iterator[str]:
    for patterns in PACKAGES:
        yield from files(*patterns)


def mutants(folder: Path, text: str, limit: int = 1) -> list[Mutant]:
    (folder / "module.py").write_text(text, encoding="utf-8")
    return list(Module(folder, "module.py").mutants(limit))


@pytest.mark.parametrize(
    ("body", "before", "after"),
    [
        ("call()\nif a:\n    raise E", "a", "(a) and False"),
        ("if a:\n    b()\nif c:\n    return 1\nreturn 2", "c", "(c) and False"),
        ("try:\n    a()\nexcept E:\n    raise F from None", "raise F from None", "pass"),
        ("await a()\nb = 1", "await a()", "pass"),
        ("return a and b and c", "a and b and c", "(a and b)"),
        ("return [a for a in b if a]", "a", "(a) or True"),
        ("b = a < 1", "a < 1", "a >= 1"),
        ("return {'é': a}", "{'é': a}", "None"),
        ("self.a = 1", "self.a = 1", "pass"),
    ],
)
def test_the_most_telling_change_comes_first(
    body: str, before: str, after: str, tmp_path: Path
) -> None:
    [mutant] = mutants(tmp_path, f"async def f(self):\n{indent(body, '    ')}\n")
    assert (mutant.before, mutant.after) == (before, after)


def test_a_predicate_is_always_true(tmp_path: Path) -> None:
    [mutant] = mutants(tmp_path, "def f() -> bool:\n    return g()\n")
    assert mutant.after == "(g()) or True"


@pytest.mark.parametrize(
    "body",
    ['"""Text."""', "assert a", "a = 1", "return None", "logger.info(a)", "while True: ...", "..."],
)
def test_what_nobody_would_notice_is_not_changed(body: str, tmp_path: Path) -> None:
    assert mutants(tmp_path, f"def f():\n    {body}\n") == []


def test_a_function_inside_another_has_a_mutant_of_its_own(tmp_path: Path) -> None:
    text = dedent("""
        class A:
            def f(self):
                def g():
                    b()
                c()
    """)
    assert [one.key for one in mutants(tmp_path, text, 9)] == [
        "module.py::A.f: c() → pass",
        "module.py::A.f.g: b() → pass",
    ]


def test_the_same_change_in_two_places_has_two_keys(tmp_path: Path) -> None:
    text = "def f():\n    if a:\n        return 1\n    if a:\n        return 2\n"
    assert [one.key for one in mutants(tmp_path, text, 2)] == [
        "module.py::f: a → (a) and False",
        "module.py::f: a → (a) and False, number 2",
    ]


def test_a_condition_that_is_returned_is_changed_in_each_way_once(tmp_path: Path) -> None:
    found = mutants(tmp_path, "def f():\n    return a and b\n", 9)
    assert [one.key for one in found] == ["module.py::f: a and b → (a)"]


def test_every_mutant_of_this_repository_is_different_and_has_its_own_key() -> None:
    for path in mutated():
        found = list(Module(ROOT, path).mutants(99))
        assert len({one.key for one in found}) == len(found)
        assert len({one.source for one in found}) == len(found)


def test_every_mutant_of_this_repository_is_valid_code_with_one_change() -> None:
    for path in mutated():
        module = Module(ROOT, path)
        for mutant in module.mutants(1):
            ast.parse(mutant.source)
            assert mutant.source != module.text


def test_the_files_exist_whose_functions_and_tests_are_run() -> None:
    for patterns in (*PACKAGES, *PACKAGES.values()):
        for pattern in patterns:
            assert list(files(pattern)), pattern


def test_the_mutants_that_are_known_to_be_equivalent_exist() -> None:
    paths = {key.partition("::")[0] for key in equivalent()}
    keys = {mutant.key for path in paths for mutant in Module(ROOT, path).mutants(99)}
    assert equivalent() - keys == set()


class FakeTests:
    """A workplace whose tests fail, hang or pass as the test says."""

    def __init__(self, *results: tuple[int | None, str]) -> None:
        self.results, self.runs = list(results), list[tuple[str, ...]]()
        self.seconds = {"tests/test_a.py::test_b": 0.1}

    def run(self, *arguments: str, seconds: float | None = None) -> tuple[int | None, str]:
        self.runs.append(arguments)
        return self.results.pop(0)

    @contextmanager
    def mutated(self, mutant: Mutant) -> Iterator[None]:
        yield

    def tests_of(self, function: str) -> dict[str, float]:
        return self.seconds


FAILED = (1, "F\nFAILED tests/test_a.py::test_b - assert 1 == 2\n1 failed")
PASSED = (0, "1 passed")
HUNG = (None, "")


@pytest.fixture
def some_mutants() -> list[Mutant]:
    return list(Module(ROOT, "app/infra/database/pool.py").mutants(1))[:2]


def run(folder: Path, mutants: list[Mutant], *results: tuple[int | None, str]) -> FakeTests:
    """Test the mutants, and report."""
    fake: Any = FakeTests(*results)
    run = Run(fake, fake, folder / "killed.txt", float("inf"))
    run.test(mutants)
    run.report()
    return cast("FakeTests", fake)


def test_a_mutant_that_no_test_notices_is_reported_with_its_place_and_change(
    some_mutants: list[Mutant], tmp_path: Path
) -> None:
    with pytest.raises(CommandError) as error:
        run(tmp_path, some_mutants, FAILED, PASSED, PASSED)
    survivor = some_mutants[1]
    assert f"{survivor.path}:{survivor.line} survived" in str(error.value)
    assert "1 mutants survived" in str(error.value)
    assert survivor.before in str(error.value)


def test_the_next_run_repeats_only_the_survivors(
    some_mutants: list[Mutant], tmp_path: Path
) -> None:
    with pytest.raises(CommandError):
        run(tmp_path, some_mutants, FAILED, PASSED, PASSED)
    second = run(tmp_path, some_mutants, FAILED, PASSED)
    assert len(second.runs) == 2  # the survivor, and its test without a mutation
    assert run(tmp_path, some_mutants).runs == []


@pytest.mark.parametrize(("first", "runs"), [(PASSED, 2), (FAILED, 1)])
def test_slow_tests_run_if_the_quick_ones_pass(
    some_mutants: list[Mutant], tmp_path: Path, first: tuple[int, str], runs: int
) -> None:
    fake: Any = FakeTests(first, *[FAILED] * (runs - 1), PASSED)
    fake.seconds = {"quick": 1.0, "slow": 50.0}
    Run(fake, fake, tmp_path / "killed.txt", float("inf")).test(some_mutants[:1])
    assert fake.runs[:-1] == [("quick", "-x"), ("slow", "-x")][:runs]


def test_a_mutant_that_hangs_is_noticed(some_mutants: list[Mutant], tmp_path: Path) -> None:
    run(tmp_path, some_mutants[:1], HUNG, PASSED)
    assert run(tmp_path, some_mutants[:1]).runs == []


def test_tests_that_are_too_slow_without_a_mutation_too_prove_nothing(
    some_mutants: list[Mutant], tmp_path: Path
) -> None:
    run(tmp_path, some_mutants[:1], HUNG, HUNG)
    assert len(run(tmp_path, some_mutants[:1], HUNG, PASSED).runs) == 2


def test_a_test_that_fails_without_the_mutation_too_proves_nothing(
    some_mutants: list[Mutant], tmp_path: Path
) -> None:
    run(tmp_path, some_mutants[:1], FAILED, FAILED)
    assert len(run(tmp_path, some_mutants[:1], FAILED, PASSED).runs) == 2


@pytest.mark.slow
def test_each_test_run_sees_the_code_as_it_is_then(tmp_path: Path) -> None:
    module, output = tmp_path / "tests/test_a.py", tmp_path / "output"
    module.parent.mkdir()
    for file in (module.with_name("__init__.py"), module.with_name("conftest.py"), output):
        file.touch()
    arguments = ["-q", "-p", "no:cacheprovider", "tests/test_a.py"]
    with open_forks(tmp_path, os.environ | {"PYTHONPATH": str(ROOT)}) as forks:

        def run(body: str, seconds: float | None = None) -> int | None:
            module.write_text(f"import time\n\ndef test_a():\n    {body}\n", encoding="utf-8")
            return forks.run(arguments, str(output), seconds)

        assert run("assert False") == 1
        assert "1 failed" in output.read_text(encoding="utf-8")
        assert run("time.sleep(3_600)", seconds=0.1) is None
        assert run("pass") == 0
