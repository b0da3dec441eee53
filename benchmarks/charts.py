"""Plots as data. benchmarks/plots.py draws them."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass


@dataclass(frozen=True)
class Bars:
    """Horizontal bars: one for each label, in one colour for each series."""

    name: str
    title: str
    unit: str
    labels: Sequence[str]
    series: Mapping[str, Sequence[float]]
    log: bool = False


@dataclass(frozen=True)
class Lines:
    """One line for each series, over the same values of x."""

    name: str
    title: str
    x_title: str
    y_title: str
    x: Sequence[float]
    series: Mapping[str, Sequence[float]]
    log_x: bool = False
    log_y: bool = False


Chart = Bars | Lines
