"""The figures in the documents are those of docs/benchmarks.json and docs/faults.md."""

from pathlib import Path

import pytest

from benchmarks import report
from benchmarks.figures import DATA, FAULTS, ROOT, documents, of_faults, outdated, published


@pytest.mark.parametrize("document", list(documents(ROOT)), ids=lambda path: path.name)
def test_figures_of_a_document_are_those_of_the_last_measurement(document: Path) -> None:
    figures = published(DATA)
    if figures is None:
        pytest.skip("`make bench` has not written docs/benchmarks.json yet")
    known = figures | of_faults(FAULTS)
    assert not outdated(document.read_text(encoding="utf-8"), known)


def test_report_is_what_the_data_of_the_last_measurement_give() -> None:
    if published(DATA) is None:
        pytest.skip("`make bench` has not written docs/benchmarks.json yet")
    text = (DATA.parent / "benchmarks.md").read_text(encoding="utf-8")
    assert text == report.page(report.read(DATA.parent))
