"""Draws the plots with matplotlib, for light and for dark pages.

The same data gives the same bytes: there is no date, and the ids in the files are not random.
"""

from collections.abc import Sequence
from pathlib import Path

import matplotlib as mpl
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.ticker import FuncFormatter, LogLocator, NullFormatter

from benchmarks.charts import Bars, Chart, Lines

# Background, text, grid, and the colours of the series.
THEMES = {
    "light": ("#ffffff", "#1f2328", "#d1d9e0", ("#0969da", "#bc4c00", "#1a7f37", "#8250df")),
    "dark": ("#0d1117", "#f0f6fc", "#3d444d", ("#4493f8", "#f0883e", "#3fb950", "#ab7df8")),
}
WIDTH = 8.0
MARKERS = "os^D"


def draw(chart: Chart, folder: Path) -> None:
    """Write NAME-light.svg and NAME-dark.svg."""
    for theme, (background, text, grid, colours) in THEMES.items():
        settings = {
            "svg.hashsalt": chart.name,
            "svg.fonttype": "none",
            "font.size": 10,
            "axes.edgecolor": grid,
            "axes.labelcolor": text,
            "text.color": text,
            "xtick.color": text,
            "ytick.color": text,
            "grid.color": grid,
        }
        with mpl.rc_context(settings):
            figure = Figure(facecolor=background, layout="constrained")
            axes = figure.subplots()
            axes.set_facecolor(background)
            if isinstance(chart, Bars):
                figure.set_size_inches(WIDTH, 1 + 0.18 * _rows(chart))
                _draw_bars(chart, axes, colours)
            else:
                figure.set_size_inches(WIDTH, 4)
                _draw_lines(chart, axes, colours)
            axes.set_title(chart.title, loc="left", fontweight="bold")
            for side in ("top", "right"):
                axes.spines[side].set_visible(False)
            if len(chart.series) > 1:
                figure.legend(loc="outside lower center", ncols=len(chart.series), frameon=False)
            file = folder / f"{chart.name}-{theme}.svg"
            figure.savefig(file, format="svg", metadata={"Date": None, "Creator": None})


def _rows(chart: Bars) -> int:
    return len(chart.labels) * (len(chart.series) + 1)


def _draw_bars(chart: Bars, axes: Axes, colours: Sequence[str]) -> None:
    height = 0.85 / len(chart.series)
    for index, (name, values) in enumerate(chart.series.items()):
        places = [at + index * height for at in range(len(values))]
        bars = axes.barh(places, values, height * 0.92, label=name, color=colours[index])
        axes.bar_label(bars, [_short(value) for value in values], padding=3, fontsize=8)
    middle = height * (len(chart.series) - 1) / 2
    axes.set_yticks([at + middle for at in range(len(chart.labels))], chart.labels)
    axes.tick_params(axis="y", length=0)
    axes.invert_yaxis()
    if chart.log:
        axes.set_xscale("log")
        axes.xaxis.set_major_locator(LogLocator(subs=(1, 2, 5)))
        axes.xaxis.set_minor_formatter(NullFormatter())
    axes.margins(x=0.12, y=0.02)
    axes.xaxis.set_major_formatter(FuncFormatter(lambda value, _: _short(value)))
    axes.grid(axis="x", linewidth=0.5)
    axes.set_axisbelow(True)
    axes.set_xlabel(chart.unit + (", logarithmic" if chart.log else ""))


def _draw_lines(chart: Lines, axes: Axes, colours: Sequence[str]) -> None:
    for index, (name, values) in enumerate(chart.series.items()):
        axes.plot(chart.x, values, marker=MARKERS[index], label=name, color=colours[index])
    if chart.log_x:
        axes.set_xscale("log")
        axes.set_xticks(chart.x, [_short(value) for value in chart.x])
        axes.minorticks_off()
    if chart.log_y:
        axes.set_yscale("log")
        axes.yaxis.set_minor_formatter(NullFormatter())
    else:
        axes.set_ylim(bottom=0)
    axes.yaxis.set_major_formatter(FuncFormatter(lambda value, _: _short(value)))
    axes.grid(linewidth=0.5)
    axes.set_axisbelow(True)
    axes.set_xlabel(chart.x_title)
    axes.set_ylabel(chart.y_title)


def _short(value: float) -> str:
    if value >= 10:
        return f"{value:,.0f}"
    return f"{value:.2g}"
