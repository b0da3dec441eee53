"""Figures in documents are replaced by those of the last benchmark, and checked."""

from pathlib import Path

import pytest

from benchmarks.figures import documents, of_faults, outdated, published, rewrite, with_figures
from dev.terminal import CommandError
from tests.faults.verdicts import GUARDED, Verdicts

TEXT = "A page needs <!--figure ladder.page.p99-->9 ms<!--/figure-->, not 9 ms.\n"


def project(folder: Path, text: str) -> Path:
    """Write a README and a chapter with this text."""
    (folder / "docs" / "guide").mkdir(parents=True)
    for path in documents_of(folder):
        path.write_text(text, encoding="utf-8")
    return folder


def documents_of(folder: Path) -> list[Path]:
    return [folder / "README.md", folder / "docs" / "guide" / "n-plus-one.md"]


def test_figures_are_replaced_between_their_marks_alone(tmp_path: Path) -> None:
    rewrite(project(tmp_path, TEXT), {"ladder.page.p99": "2.4 ms"})
    new = "A page needs <!--figure ladder.page.p99-->2.4 ms<!--/figure-->, not 9 ms.\n"
    assert [path.read_text(encoding="utf-8") for path in documents_of(tmp_path)] == [new, new]
    assert list(documents(tmp_path)) == documents_of(tmp_path)


def test_unknown_figure_is_named_with_its_document_and_left_as_it_is(tmp_path: Path) -> None:
    with pytest.raises(CommandError, match=r"n-plus-one\.md: There is no figure ladder\.page\.p99"):
        rewrite(project(tmp_path, TEXT), {"other": "1"})
    assert documents_of(tmp_path)[0].read_text(encoding="utf-8") == TEXT


def test_figure_that_differs_is_outdated() -> None:
    figures = {"ladder.page.p99": "2.4 ms"}
    assert outdated(TEXT, figures) == [
        "The figure ladder.page.p99 is 2.4 ms, and the text says 9 ms."
    ]
    assert not outdated(with_figures(TEXT, figures), figures)
    assert outdated(TEXT, {}) == ["There is no figure ladder.page.p99."]


def test_text_of_a_figure_may_look_like_a_pattern() -> None:
    assert "-->\\1 µs<!--" in with_figures(TEXT, {"ladder.page.p99": "\\1 µs"})


def test_figure_of_a_fault_case_is_what_happened_without_its_safeguard(tmp_path: Path) -> None:
    page = tmp_path / "faults.md"
    assert of_faults(page) == {}
    verdicts = Verdicts()
    for control, broken in ((GUARDED, []), ("without a key", ["2 rows"]), ("by hand", ["lost"])):
        verdicts.judge("A POST, sent twice", control, "1 row", broken)
    page.write_text(verdicts.table(60, "abc"), encoding="utf-8")
    assert of_faults(page) == {"fault.a-post-sent-twice": "2 rows; lost"}


def test_without_a_benchmark_there_are_no_figures(tmp_path: Path) -> None:
    assert published(tmp_path / "benchmarks.json") is None
