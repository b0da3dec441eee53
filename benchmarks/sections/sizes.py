"""How many connections, pooled connections and workers bring how much."""

from benchmarks.charts import Chart, Lines
from benchmarks.load import Request, Sample
from benchmarks.section import Data, as_data, number, sample_figures, share, table
from benchmarks.world import PATIENT, Target, World, service

ORDER = 5
TITLE = "Sizes: the pool, the workers, the connections"
IN_QUICK = False

POOLS = (1, 2, 5, 8, 20, 50)
WORKERS = (1, 2, 4)
CONNECTIONS = (1, 4, 16, 64, 256, 1024)
PAGE = Request("/v1/posts")
NOT_CACHED = {"CACHE_ENABLED": "false"}
# An empty variable leaves the default.
USUAL_WAIT = dict.fromkeys(PATIENT.keys() - {"RATE_LIMITS_QUOTAS"}, "")


def measure(world: World) -> Data:
    return {
        "pool": _measure_pools(world),
        "workers": {
            kind: _measure_starts(
                world,
                f"workers, {kind}",
                {str(count): service("service", settings, workers=count) for count in WORKERS},
            )
            for kind, settings in (("page", NOT_CACHED), ("cached", {"CACHE_NAMESPACE": "sizes"}))
        },
        "connections": _measure_connections(world),
    }


def _measure_pools(world: World) -> Data:
    """Measure the sizes in turns, because the next one often brings little."""
    targets = [service(str(size), NOT_CACHED | {"DATABASE_POOL_SIZE": str(size)}) for size in POOLS]
    with world.serving(*targets) as servers:
        return as_data(world.compare("Sizes, pool", servers, lambda _: PAGE))


def _measure_starts(world: World, title: str, targets: dict[str, Target]) -> Data:
    """Measure one target after the other. Only one runs at a time."""
    found: dict[str, Sample] = {}
    for name, target in targets.items():
        with world.serving(target) as servers:
            title_of = f"Sizes, {title}: {name}"
            [found[name]] = world.compare(title_of, servers, lambda _: PAGE).values()
    return as_data(found)


def _measure_connections(world: World) -> Data:
    found: Data = {"page": {}, "cached": {}}
    targets = (
        service("page", NOT_CACHED | USUAL_WAIT, workers=2),
        service("cached", USUAL_WAIT, workers=2),
    )
    with world.serving(*targets) as servers:
        for count in CONNECTIONS:
            samples = world.compare(
                f"Sizes, {count:,} connections",
                servers,
                lambda _: PAGE,
                connections=count,
                may_refuse=True,
            )
            for name, sample in as_data(samples).items():
                found[name][str(count)] = sample
    return found


def figures(data: Data) -> dict[str, str]:
    found: dict[str, str] = {}
    for size, sample in data["pool"].items():
        found |= sample_figures(f"pool.{size}", sample)
    for kind, counts in data["workers"].items():
        for count, sample in counts.items():
            found |= sample_figures(f"workers.{count}.{kind}", sample)
            found[f"workers.{count}.{kind}.memory"] = f"{sample['memory']:.0f} MB"
    for kind, counts in data["connections"].items():
        for count, sample in counts.items():
            found |= sample_figures(f"connections.{count}.{kind}", sample)
    return found


def report(data: Data) -> str:
    kinds = {"page": "not cached", "cached": "cached"}
    pools = [[size, *_columns(sample)] for size, sample in data["pool"].items()]
    workers = [
        [count, kinds[kind], *_columns(sample), f"{sample['memory']:.0f}"]
        for kind, counts in data["workers"].items()
        for count, sample in counts.items()
    ]
    connections = [
        [f"{int(count):,}", kinds[kind], *_columns(sample), share(sample["refused"])]
        for kind, counts in data["connections"].items()
        for count, sample in counts.items()
    ]
    parts = [
        INTRODUCTION,
        table(("pool of one worker", *HEAD), pools),
        table(("workers", "page", *HEAD, "MB"), workers),
        table(("connections, 2 workers", "page", *HEAD, "503"), connections),
    ]
    return "\n\n".join(parts)


def _columns(sample: dict[str, float]) -> list[str]:
    return [number(sample[name]) for name in ("rps", "p50", "p95", "p99", "cpu")]


def charts(data: Data) -> list[Chart]:
    rates = {
        title: [data["connections"][kind][str(count)]["rps"] for count in CONNECTIONS]
        for kind, title in (("page", "not cached"), ("cached", "cached"))
    }
    pools = {
        "p50": [data["pool"][str(size)]["p50"] for size in POOLS],
        "p99": [data["pool"][str(size)]["p99"] for size in POOLS],
    }
    return [
        Lines(
            "connections",
            "Connections of clients, two workers",
            "connections",
            "requests a second",
            CONNECTIONS,
            rates,
            log_x=True,
            log_y=True,
        ),
        Lines(
            "pool",
            "Connections to the database, one worker",
            "connections in the pool",
            "ms",
            POOLS,
            pools,
            log_x=True,
        ),
    ]


HEAD = ("requests/s", "p50 ms", "p95 ms", "p99 ms", "CPU µs")
INTRODUCTION = """All tables show the first page of posts. The pool and the workers are measured
with 64 connections: the pools in turns, and the workers one setting after the other. When more
clients wait than the service takes at once, it answers 503 with Retry-After. The last column is the
share of these answers, which do not count as requests."""
