"""Constant arrival: latencies from when each request was due, beside the usual idiom."""

import asyncio
from statistics import median

from benchmarks.arrival import Arrivals, constant_arrival, percentile
from benchmarks.cases import TITLES, requests_of
from benchmarks.section import Data, number, table
from benchmarks.world import World, service, uvicorn

ORDER = 7
TITLE = "Constant arrival"
IN_QUICK = False

RATES = {"page": 200, "me": 150}  # requests a second
SECONDS, QUICK_SECONDS = 10, 2
SERVERS = {"service": "this service, not cached", "idiom": "FastAPI, the usual idiom"}
POINTS = {"p50": 0.5, "p95": 0.95, "p99": 0.99, "max": 1.0}


def measure(world: World) -> Data:
    requests, found = requests_of(world), Data()
    seconds = QUICK_SECONDS if world.effort.is_quick else SECONDS
    targets = (
        service("service", {"CACHE_ENABLED": "false"}),
        uvicorn("idiom", "benchmarks.rivals.fastapi_idiom:app"),
    )
    with world.serving(*targets) as servers:
        for case, rate in RATES.items():
            rounds: dict[str, list[Arrivals]] = {name: [] for name in servers}
            for number_of_round in range(1 if world.effort.is_quick else 2):
                for name, server in servers.items():
                    world.status.show(
                        f"Constant arrival, {TITLES[case]}: round {number_of_round + 1}, {name}"
                    )
                    asyncio.run(constant_arrival(server.url, requests[case], rate, 0.5))
                    run = constant_arrival(server.url, requests[case], rate, seconds)
                    rounds[name].append(asyncio.run(run))
            found[case] = {name: _summary(of_server) for name, of_server in rounds.items()}
    world.status.finish("Constant arrival: done")
    return {"seconds": seconds, "cases": found}


def _summary(rounds: list[Arrivals]) -> dict[str, float]:
    """Return the median of the rounds of each percentile, and all errors."""
    points = {
        name: float(f"{median(percentile(one.latencies, share) for one in rounds):.3g}")
        for name, share in POINTS.items()
    }
    return points | {"refused": sum(one.refused for one in rounds)}


def figures(data: Data) -> dict[str, str]:
    found = {f"arrival.{case}.rate": str(rate) for case, rate in RATES.items()}
    for case, servers in data["cases"].items():
        for name, points in servers.items():
            for point in POINTS:
                found[f"arrival.{case}.{name}.{point}"] = f"{number(points[point])} ms"
    return found


def report(data: Data) -> str:
    rows = [
        [
            f"{TITLES[case]}, {RATES[case]} a second",
            SERVERS[name],
            *(number(points[point]) for point in POINTS),
            f"{points['refused']:.0f}",
        ]
        for case, servers in data["cases"].items()
        for name, points in servers.items()
    ]
    head = ("requests", "server", *(f"{name} ms" for name in POINTS), "errors")
    return f"{INTRODUCTION.format(**data)}\n\n{table(head, rows)}"


INTRODUCTION = """Requests are sent at a constant rate for {seconds} s, whatever happens to
earlier ones, and latency counts from the time when a request was due. One process each. The
clients are a Python program on the same machine, whose own delays are included."""
