"""What each middleware costs. benchmarks/layers.py measures it, in a process of its own."""

import json
import subprocess
import sys
from itertools import pairwise

from benchmarks.charts import Bars, Chart
from benchmarks.section import Data, number, table
from benchmarks.world import World
from dev.servers import ROOT

ORDER = 4
TITLE = "What each middleware costs"

ROUNDS, QUICK_ROUNDS = 81, 5
OBSERVING = "access log"  # the last of what observes a request
BASE_HTTP = "base http"
# What a stack is compared with, where this is not the stack before it.
INNER = {
    "rate limits": "upload queue",
    "cached response": "catch all",
    "rate limits of a cached response": "catch all",
    BASE_HTTP: "none",
}
ENVIRONMENT = {
    "LOG_LEVEL": "ERROR",  # standard output is for the figures
    "RATE_LIMITS_TIMEOUT_SECONDS": "10",  # after a timeout, this process would count for a while
    "SERVER_DRAIN_SECONDS": "0",
}


def measure(world: World) -> Data:
    rounds = QUICK_ROUNDS if world.effort.is_quick else ROUNDS
    world.status.show(f"Middleware: {rounds} rounds")
    run = subprocess.run(
        [sys.executable, "-m", "benchmarks.layers", str(rounds)],
        cwd=ROOT,
        env={**world.servers.environment, **world.environment, **ENVIRONMENT},
        stdout=subprocess.PIPE,
        check=True,
        encoding="utf-8",
    )
    world.status.finish("Middleware: done")
    stacks: dict[str, float] = json.loads(run.stdout)
    return {"rounds": rounds, "stacks": stacks}


def added(data: Data) -> dict[str, float]:
    """Return what each layer adds to the stack that has one layer less."""
    stacks: dict[str, float] = data["stacks"]
    found = {
        name: max(0.0, stacks[name] - stacks[INNER.get(name, before)])
        for before, name in pairwise(stacks)
    }
    return found | {"observing": stacks[OBSERVING] - stacks["none"]}


def figures(data: Data) -> dict[str, str]:
    return {
        f"middleware.{SLUGS.get(name) or name.replace(' ', '-')}.cpu": f"{number(cost)} µs"
        for name, cost in added(data).items()
    }


def report(data: Data) -> str:
    rows = [[LABELS.get(name, name), number(cost)] for name, cost in added(data).items()]
    none = number(data["stacks"]["none"])
    introduction = INTRODUCTION.format(none=none, **data)
    return f"{introduction}\n\n{table(('layer', 'CPU µs'), rows)}"


def charts(data: Data) -> list[Chart]:
    costs = added(data)
    labels = [LABELS.get(name, name) for name in costs]
    return [
        Bars("middleware", "CPU of each middleware", "µs", labels, {"CPU": list(costs.values())})
    ]


SLUGS = {"rate limits of a cached response": "rate-limits", "rate limits": "rate-limits-in-valkey"}
LABELS = {
    "response cache": "response cache, passed by",
    "upload queue": "upload queue, passed by",
    "rate limits": "rate limits, counted in Valkey",
    "cached response": "response from the cache",
    "observing": "request id + timing + metrics + access log",
    BASE_HTTP: "a BaseHTTPMiddleware that does nothing",
}
INTRODUCTION = """An application that answers at once needs {none} µs. Each row is what one more
layer around it adds, for a request of its own task, without a server. All are measured in one
process with uvloop, in turns. Each figure is the lowest of {rounds} rounds of 1,000 requests. A
response from the cache is that of one user, in process. It takes the place of the application, and
includes its rate limits. Other requests count in Valkey. Here each has a command of its own, and
under load several share one."""
