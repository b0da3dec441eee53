"""Figures in documents, which come from docs/benchmarks.json and docs/faults.md.

A document marks a figure with its key:

    A page needs <!--figure KEY-->2.4 ms<!--/figure-->.

`make bench` and `make faults` replace the text between the marks, and a contract test checks that
it is current. The key of a fault case is its name, and its figure what happened without its
safeguard.
"""

import json
import re
import sys
from collections.abc import Iterator, Mapping
from pathlib import Path

from dev.terminal import CommandError

ROOT = Path(__file__).parents[1]
DATA, FAULTS = ROOT / "docs" / "benchmarks.json", ROOT / "docs" / "faults.md"
# The case, what happened, the safeguard that was removed, what happened then, whether that is right
ROW = re.compile(r"^\| (.+?) \| .+? \| .+? \| (.+?) \| (?:yes|\*\*no\*\*) \|$", re.MULTILINE)
MARKED = re.compile(r"(<!--figure ([\w.-]+)-->)(.*?)(<!--/figure-->)", re.DOTALL)

ADVICE = """Correct these keys: see docs/benchmarks.json and benchmarks/figures.py.
A fault case that was skipped has no figure: install its program, and run make faults again."""


def documents(root: Path) -> Iterator[Path]:
    """Yield the documents that may contain figures."""
    yield root / "README.md"
    yield from sorted((root / "docs").rglob("*.md"))


def published(data: Path) -> dict[str, str] | None:
    """Return the figures by their keys, or None before the first `make bench`."""
    if not data.exists():
        return None
    figures: dict[str, str] = json.loads(data.read_text(encoding="utf-8"))["figures"]
    return figures


def of_faults(page: Path) -> dict[str, str]:
    """Return what happened in each fault case without its safeguard."""
    rows = ROW.findall(page.read_text(encoding="utf-8")) if page.exists() else []
    return {f"fault.{re.sub('[^a-z0-9]+', '-', case.lower())}": seen for case, seen in rows}


def outdated(text: str, figures: Mapping[str, str]) -> list[str]:
    """Return a sentence for each figure of a text that is unknown, or differs from `figures`."""
    problems = []
    for _, key, shown, _ in MARKED.findall(text):
        if key not in figures:
            problems.append(f"There is no figure {key}.")
        elif shown != figures[key]:
            problems.append(f"The figure {key} is {figures[key]}, and the text says {shown}.")
    return problems


def with_figures(text: str, figures: Mapping[str, str]) -> str:
    """Return the text with its figures replaced. Unknown figures are left as they are."""
    return MARKED.sub(
        lambda mark: mark[1] + figures.get(mark[2], mark[3]) + mark[4],
        text,
    )


def rewrite(root: Path, figures: Mapping[str, str]) -> None:
    """Write the figures into all documents. Raise `CommandError` if one of them is unknown."""
    problems = []
    for document in documents(root):
        old = document.read_text(encoding="utf-8")
        if (new := with_figures(old, figures)) != old:
            document.write_text(new, encoding="utf-8")
        problems += [f"{document.relative_to(root)}: {it}" for it in outdated(new, figures)]
    if problems:
        raise CommandError("\n".join([*problems, ADVICE]))


if __name__ == "__main__":
    try:
        rewrite(ROOT, (published(DATA) or {}) | of_faults(FAULTS))
    except CommandError as error:
        sys.exit(str(error))
