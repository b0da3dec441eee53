"""The figures in the documents are those of docs/benchmarks.json and docs/faults.md."""

import re
from pathlib import Path

import pytest

from benchmarks import report
from benchmarks.figures import DATA, FAULTS, ROOT, documents, of_faults, outdated, published
from benchmarks.section import Data, all_sections, name_of

ONLY = re.compile(r'make bench (?:posts=\d+ )?only=(?:"([^"]+)"|(\w+))')


@pytest.mark.parametrize("document", list(documents(ROOT)), ids=lambda path: path.name)
def test_figures_of_a_document_are_those_of_the_last_measurement(document: Path) -> None:
    figures = published(DATA)
    if figures is None:
        pytest.skip("`make bench` has not written docs/benchmarks.json yet")
    known = figures | of_faults(FAULTS)
    assert not outdated(document.read_text(encoding="utf-8"), known)


@pytest.fixture
def measured() -> Data:
    """The data of the last measurement. Their sections still exist."""
    if published(DATA) is None:
        pytest.skip("`make bench` has not written docs/benchmarks.json yet")
    data = report.read(DATA.parent)
    if data["sections"].keys() - set(map(name_of, all_sections())):
        pytest.skip("a feature whose section was measured has been removed since `make bench`")
    return data


def test_report_is_what_the_data_of_the_last_measurement_give(measured: Data) -> None:
    text = (DATA.parent / "benchmarks.md").read_text(encoding="utf-8")
    assert text == report.page(measured)


def test_commands_name_sections_that_exist(measured: Data) -> None:
    texts = (document.read_text(encoding="utf-8") for document in documents(ROOT))
    named = [a or b for text in texts for a, b in ONLY.findall(text)]
    assert named
    assert set(" ".join(named).split()) <= measured["sections"].keys()
