"""Dashboards and alerts use metrics and labels that the service has."""

import json
import re
from collections.abc import Iterator
from pathlib import Path

import pytest
import yaml
from prometheus_client import Histogram
from prometheus_client.metrics import MetricWrapperBase

from app.infra.observability import metrics
from coherent_cache import cache_metrics as cache_metrics
from graceful_gunicorn.collectors import SharedStateCollector

DEPLOY = Path(__file__).parents[2] / "deploy"
WORDS = {"sum", "rate", "increase", "by", "le", "topk", "max", "absent", "histogram_quantile"}
WORDS |= {"or", "unless"}


def exposed() -> dict[str, set[str]]:
    """Return every series that the service has, with its labels."""
    found: dict[str, set[str]] = {}
    for metric in (vars(metrics) | vars(cache_metrics)).values():
        if isinstance(metric, MetricWrapperBase):
            for name in names_of(metric):
                found[name] = set(metric._labelnames) | (
                    {"le"} if name.endswith("bucket") else set()
                )
    for family in SharedStateCollector().collect():
        found |= {sample.name: set() for sample in family.samples}
    return found


def names_of(metric: MetricWrapperBase) -> list[str]:
    """Return the names of the series of a metric."""
    if isinstance(metric, Histogram):
        return [f"{metric._name}_{part}" for part in ("bucket", "count", "sum")]
    return [f"{metric._name}_total" if metric._type == "counter" else metric._name]


def queries() -> Iterator[str]:
    """Yield the queries of the dashboard and of the alerts."""
    dashboard = json.loads((DEPLOY / "grafana/service.json").read_text(encoding="utf-8"))
    for panel in dashboard["panels"]:
        yield from (target["expr"] for target in panel["targets"])
    for group in yaml.safe_load((DEPLOY / "prometheus/alerts.yml").read_text(encoding="utf-8"))[
        "groups"
    ]:
        yield from (rule["expr"] for rule in group["rules"])


@pytest.mark.parametrize("query", [*queries()])
def test_every_query_uses_existing_metrics(query: str) -> None:
    bare = re.sub(r"\[[^]]*\]", "", query)
    labels = set(re.findall(r"(\w+)=~?\"", bare))
    for group in re.findall(r"by \(([^)]*)\)", bare):
        labels |= {label.strip() for label in group.split(",")}
    bare = re.sub(r"\{[^}]*\}|by \([^)]*\)", "", bare)
    names = set(re.findall(r"[a-z_]+", bare)) - WORDS
    series = exposed()
    assert names
    assert names <= series.keys()
    for name in names:
        assert labels - {"le"} <= series[name], name


def test_every_metric_is_on_the_dashboard() -> None:
    asked = " ".join(queries())
    missing = [
        metric._name
        for metric in vars(metrics).values()
        if isinstance(metric, MetricWrapperBase) and metric._name not in asked
    ]
    assert not missing
