"""What a section of the benchmark is, and how it writes figures.

A module in benchmarks/sections has these names:

- ORDER and TITLE: where it is in the report, and its heading.
- measure(world): measures, and returns data for docs/benchmarks.json.
- figures(data): returns the figures that documents may show, by their keys.
- report(data): returns the text below the heading.
- charts(data): returns the plots. They may be missing.
- IN_QUICK = False leaves the section out of `make bench quick`.
- TOOLS: programs besides wrk that it needs, each with its Debian package. It may be missing.
"""

from collections.abc import Iterator, Mapping, Sequence
from importlib import import_module
from pkgutil import iter_modules
from types import ModuleType
from typing import Any

from benchmarks import sections
from benchmarks.load import Sample

Data = dict[str, Any]
UNITS = {
    "p50": "ms",
    "p95": "ms",
    "p99": "ms",
    "cpu": "µs",
    "postgres": "µs",
    "memory": "MB",
}


def all_sections() -> list[ModuleType]:
    """Return the modules of all sections, in the order of the report."""
    names = [module.name for module in iter_modules(sections.__path__)]
    found = [import_module(f"benchmarks.sections.{name}") for name in names]
    return sorted(found, key=lambda module: int(module.ORDER))


def name_of(module: ModuleType) -> str:
    return module.__name__.rpartition(".")[2]


def number(value: float) -> str:
    """Write a number with two or three significant digits."""
    if value >= 100:
        return f"{value:,.0f}"
    return f"{value:.1f}" if value >= 1 else f"{value:.2f}"


def ratio(value: float) -> str:
    return f"{number(value)}×" if value < 10 else f"{value:,.0f}×"


def share(value: float) -> str:
    return f"{value:.0%}".replace("%", " %")


def with_unit(name: str, value: float) -> str:
    """Write a figure of a sample."""
    return f"{number(value)} {UNITS[name]}" if name in UNITS else f"{value:,.0f}"


def sample_figures(prefix: str, sample: Mapping[str, float]) -> Iterator[tuple[str, str]]:
    """Yield the figures of a sample, with their keys."""
    for name in ("rps", "p50", "p95", "p99", "cpu"):
        yield f"{prefix}.{name}", with_unit(name, sample[name])
    yield f"{prefix}.pg", with_unit("postgres", sample["postgres"])


def table(head: Sequence[str], rows: Sequence[Sequence[str]]) -> str:
    """Write a table in Markdown."""
    lines = [head, ["---"] * len(head), *rows]
    return "\n".join("| " + " | ".join(line) + " |" for line in lines)


def as_data(samples: Mapping[str, Sample]) -> Data:
    """Return samples in the form of docs/benchmarks.json."""
    return {
        name: {field: float(f"{value:.4g}") for field, value in vars(sample).items()}
        for name, sample in samples.items()
    }
