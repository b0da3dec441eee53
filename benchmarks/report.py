"""Writes the report, the plots and the figures from the data, always the same for the same data."""

import json
from collections.abc import Iterable, Iterator
from pathlib import Path
from types import ModuleType
from typing import Any

from benchmarks.charts import Chart
from benchmarks.section import Data, all_sections, name_of


def all_figures(data: Data, sections: Iterable[ModuleType] | None = None) -> dict[str, str]:
    """Return all figures that documents may show, by their keys."""
    found = {f"machine.{name}": str(value) for name, value in data["machine"].items()}
    for section in all_sections() if sections is None else sections:
        if measured := data["sections"].get(name_of(section)):
            found |= section.figures(measured["data"])
    return found


def write(data: Data, folder: Path) -> None:
    """Write benchmarks.json, benchmarks.md and benchmarks/*.svg into a folder."""
    from benchmarks.plots import draw  # matplotlib is imported only when plots are drawn

    save(data, folder)
    plots = folder / "benchmarks"
    plots.mkdir(parents=True, exist_ok=True)
    for old in plots.glob("*.svg"):
        old.unlink()
    for section, measured in _measured(data):
        for chart in _charts(section, measured):
            draw(chart, plots)
    (folder / "benchmarks.md").write_text(page(data), encoding="utf-8")


def page(data: Data) -> str:
    """Return the text of benchmarks.md."""
    text = [HEAD + _machine(data["machine"])]
    for section, measured in _measured(data):
        text.append(f"## {section.TITLE}")
        if measured["commit"] != data["machine"]["commit"]:
            text.append(f"Measured on commit {measured['commit']}.")
        text += [_picture(chart) for chart in _charts(section, measured)]
        text.append(section.report(measured["data"]))
    return "\n\n".join(text) + "\n"


def save(data: Data, folder: Path) -> None:
    """Write benchmarks.json, with all figures."""
    folder.mkdir(parents=True, exist_ok=True)
    data["figures"] = all_figures(data)
    content = json.dumps(data, indent=1, ensure_ascii=False)
    (folder / "benchmarks.json").write_text(content + "\n", encoding="utf-8")


def read(folder: Path) -> Data:
    """Return the data of the last run."""
    data: Data = json.loads((folder / "benchmarks.json").read_text(encoding="utf-8"))
    return data


def _measured(data: Data) -> Iterator[tuple[ModuleType, Data]]:
    for section in all_sections():
        if measured := data["sections"].get(name_of(section)):
            yield section, measured


def _charts(section: ModuleType, measured: Data) -> list[Chart]:
    charts: list[Chart] = getattr(section, "charts", lambda _: [])(measured["data"])
    return charts


def _picture(chart: Chart) -> str:
    source = f"benchmarks/{chart.name}"
    return (
        f'<picture><source media="(prefers-color-scheme: dark)" srcset="{source}-dark.svg">'
        f'<img alt="{chart.title}" src="{source}-light.svg"></picture>'
    )


def _machine(machine: dict[str, Any]) -> str:
    lines = (f"| {name} | {value} |" for name, value in machine.items())
    return "| what | value |\n|---|---|\n" + "\n".join(lines)


HEAD = """# Benchmarks

`make bench` measures everything on this page on your machine, and writes it. It needs `wrk`,
`h2load` and about 30 minutes. `make bench quick` needs `wrk` and two minutes, measures some of it
once, and writes to `.data/benchmarks`. The figures are also in [benchmarks.json](benchmarks.json).

## How to read it

- Compare figures of one table only. Server, PostgreSQL, Valkey and the clients share the cores of
  one machine, so rates are lower bounds. Ratios depend less on this than rates and CPU times.
- Servers that are compared are measured in turns, after a warm-up, and each figure is the median of
  the rounds. A server that needs seconds for a response is measured in one long round. In the
  ladder, one post, `/users/me` and the POST have one round, so small differences mean nothing.
- "CPU µs" is the CPU time of all processes of the server for one request, and "PG µs" that of
  PostgreSQL. Latencies are those of the clients. Memory counts shared pages once.
- The service has its settings of production, with every middleware, and two exceptions so that no
  request is refused: the quotas of the rate limits are very high, and requests and statements may
  take about 20 s. Where connections are counted, these times are those of production.
- Clients send the next request when they have the last response, except in the sections on constant
  arrival and on uploads. Such clients hide how long a stall is, so look at these two for tails.

## What it does not compare

- Networks, TLS, load balancers and several machines: everything runs on the loopback interface.
- Other data: 100,000 short posts fit into the memory of PostgreSQL, and no disk is waited for.
- Writes to a disk: PostgreSQL does not wait for its log here.
- What frameworks offer beyond these routes, and how long it takes to write them.
- Other templates as they are: all servers here do the same work.
- A different workload. Measure your own before you change something because of this page.

## The machine

"""
