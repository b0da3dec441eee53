"""Counters start at zero, and never fall."""

import math
import random

from prometheus_client import REGISTRY

from app.infra.observability.metrics import exact


def test_sums_of_rounded_seconds_do_not_depend_on_the_order() -> None:
    for _ in range(100):
        times = [exact(random.uniform(0, 10)) for _ in range(10)]
        assert sum(times) == sum(sorted(times)) == math.fsum(times)


def test_every_diagnostic_is_counted_from_zero() -> None:
    """The first report is then an increase, which alerts."""
    for name in ("blocked_loop", "statement_budget", "leaked_connection", "lost_task"):
        assert REGISTRY.get_sample_value("guard_findings_total", {"guard": name}) is not None
