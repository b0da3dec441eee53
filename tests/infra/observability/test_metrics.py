"""Sums of seconds do not depend on the order in which the files of the workers are read."""

import math
import random

from app.infra.observability.metrics import exact


def test_sums_of_rounded_seconds_do_not_depend_on_the_order() -> None:
    for _ in range(100):
        times = [exact(random.uniform(0, 10)) for _ in range(10)]
        assert sum(times) == sum(sorted(times)) == math.fsum(times)
