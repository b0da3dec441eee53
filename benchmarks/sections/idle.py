"""The CPU time that the service needs while nobody sends it a request."""

import time
from collections.abc import Callable, Mapping
from functools import partial
from typing import Any

from redis import Redis

from benchmarks.load import children_of, exact_cpu_seconds
from benchmarks.section import Data, number, table
from benchmarks.world import World, service

ORDER = 17
TITLE = "Idle workers"

WORKERS = 2
SECONDS, QUICK_SECONDS = 20, 5
SETTLE_SECONDS = 4  # until the work that belongs to the start is done
# The connections of the service itself. Autovacuum may still clean up after the other sections.
CONNECTIONS = """
    SELECT pid FROM pg_stat_activity
    WHERE backend_type = 'client backend' AND pid <> pg_backend_pid()
"""
Meter = Callable[[], float]  # returns CPU seconds


def measure(world: World) -> Data:
    seconds = QUICK_SECONDS if world.effort.is_quick else SECONDS
    target = service("idle", {"CACHE_NAMESPACE": "idle"}, workers=WORKERS)
    with world.serving(target) as servers, Redis.from_url(world.servers.valkey_url) as valkey:
        world.status.show(f"Idle: nothing happens for {SETTLE_SECONDS + seconds} s")
        time.sleep(SETTLE_SECONDS)
        [master] = children_of(servers["idle"].process_id)
        workers = children_of(master)
        assert len(workers) == WORKERS
        connections = [int(row["pid"]) for row in world.query(CONNECTIONS)]
        meters = {
            "workers": partial(_sum_of, workers),
            "all": partial(_sum_of, [master]),
            "postgres": partial(_sum_of, connections),
            "valkey": partial(_valkey_seconds, valkey),
        }
        found = _milliseconds_a_second(meters, seconds)
    world.status.finish("Idle: done")
    return found


def _milliseconds_a_second(meters: Mapping[str, Meter], seconds: float) -> Data:
    began = time.monotonic()
    before = {name: meter() for name, meter in meters.items()}
    time.sleep(seconds)
    used = {name: meter() - before[name] for name, meter in meters.items()}
    taken = time.monotonic() - began
    return {name: float(f"{one / taken * 1e3:.3g}") for name, one in used.items()}


def _sum_of(processes: list[int]) -> float:
    return sum(exact_cpu_seconds(one) for one in processes)


def _valkey_seconds(valkey: Redis) -> float:
    found: dict[str, Any] = valkey.info("cpu")
    return float(found["used_cpu_sys"] + found["used_cpu_user"])


def figures(data: Data) -> dict[str, str]:
    return {f"idle.{name}.cpu": f"{number(one)} ms" for name, one in _with_one(data).items()}


def _with_one(data: Data) -> dict[str, float]:
    return {"worker": data["workers"] / WORKERS, **data}


def report(data: Data) -> str:
    rows = [[TITLES[name], number(one)] for name, one in _with_one(data).items()]
    return f"{INTRODUCTION}\n\n{table(('process', 'CPU, ms a second'), rows)}"


TITLES = {
    "worker": "one worker",
    "workers": "two workers",
    "all": "two workers and their master",
    "postgres": "PostgreSQL, for their connections",
    "valkey": "Valkey, which also wakes up by itself",
}
INTRODUCTION = f"""{WORKERS} workers run as in production, with the cache, and get no requests.
Each polls the outbox of the cache, tests its connections to Valkey, watches its event loop, and
tells the other worker how many connections it has. The section on jobs has what an idle worker for
jobs needs."""
