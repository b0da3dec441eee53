"""Work in other processes has a low priority, and limits on what it takes from the machine."""

import os
import resource
import sys
from contextlib import suppress

import pytest

from app.errors import Unavailable
from app.infra.limited_process import NICENESS
from app.infra.process_pool import ProcessPool
from tests import work

MIB = 1024 * 1024


@pytest.fixture
def pool() -> ProcessPool:
    return ProcessPool(1, queue=1, queue_seconds=60, seconds=60, memory_bytes=256 * MIB)


async def test_function_runs_in_another_process_of_low_priority(pool: ProcessPool) -> None:
    process_id, niceness = await pool.run(work.identity)
    assert process_id != os.getpid()
    assert niceness == NICENESS


@pytest.mark.skipif(sys.platform != "linux", reason="The test reads /proc.")
async def test_system_without_memory_kills_such_a_process_first(pool: ProcessPool) -> None:
    assert await pool.run(work.oom_score_adjustment) == 1_000


async def test_call_cannot_take_all_memory(pool: ProcessPool) -> None:
    with pytest.raises(MemoryError):
        await pool.run(work.take_memory, 400 * MIB)
    assert await pool.run(work.take_memory, 50 * MIB) == 50 * MIB


async def test_hard_limits_of_the_system_stay(pool: ProcessPool) -> None:
    memory = resource.getrlimit(resource.RLIMIT_DATA)[1]
    try:
        assert await pool.run(work.lower_hard_limit, 200 * MIB) == (memory, 200 * MIB)
    finally:
        with suppress(Unavailable):
            await pool.run(work.die)
