"""Several instances of the service share one database and one cache."""

from contextlib import nullcontext

import pytest

from tests.faults.conftest import Judge, Serve
from tests.faults.history import run_history
from tests.faults.postgres import Backend
from tests.faults.test_histories import seconds_of
from tests.faults.verdicts import GUARDED

pytestmark = pytest.mark.faults


@pytest.mark.parametrize("control", [GUARDED, "with a separate cache for each instance"])
async def test_two_instances_show_what_either_has_acknowledged(
    backend: Backend, serve_cached: Serve, judge: Judge, control: str
) -> None:
    shared = control == GUARDED
    cache = {"namespace": "cache" if shared else "another"}
    async with (
        serve_cached(control, trouble="slow_fills") as first,
        serve_cached(control, trouble="slow_fills", cache=cache) as second,
    ):
        seconds = seconds_of(control, 20)
        history = await run_history(first, backend, seconds, nullcontext(), second)
    judge("Two instances share one cache", control, history.figure, history.broken())
