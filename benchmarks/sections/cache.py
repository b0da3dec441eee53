"""Cached responses: in process, through Valkey, not cached, and raw ASGI for comparison."""

from collections.abc import Iterator

from benchmarks.charts import Bars, Chart, Lines
from benchmarks.load import Request, median_of
from benchmarks.load import measure as measure_load
from benchmarks.section import Data, as_data, number, ratio, sample_figures, share, table
from benchmarks.sections.rivals import keep_bytes
from benchmarks.world import Server, Target, World, service
from dev.service import GUNICORN

ORDER = 3
TITLE = "Cached responses"

# With a fixed seed, each round would request the posts of the last round, which memory still holds.
RANDOM = """
math.randomseed(os.time())
request = function()
   return wrk.format("GET", "/v1/posts/" .. math.random(%d))
end
"""
IN_ORDER = """
local id = %d
request = function()
   id = id %% %d + 1
   return wrk.format("GET", "/v1/posts/" .. id)
end
"""
# The cached posts are 1 to 100. The others have not been requested before.
MIXED = """
math.randomseed(7)
local id = %d
request = function()
   if math.random() < %f then
      return wrk.format("GET", "/v1/posts/" .. math.random(100))
   end
   id = id %% %d + 1
   return wrk.format("GET", "/v1/posts/" .. id)
end
"""
TIERS = {
    "raw": "raw ASGI, the same bytes",
    "memory": "in process",
    "valkey": "through Valkey",
    "uncached": "not cached",
}
# Entries do not expire while they are measured.
CACHE = {"CACHE_NAMESPACE": "tiers", "CACHE_TTL_SECONDS": "3600"}
SERVICES = (
    service("memory", CACHE),
    service("valkey", CACHE | {"CACHE_MEMORY_TTL_SECONDS": "0"}),
    service("uncached", {"CACHE_ENABLED": "false"}),
)
SHARES = (0, 50, 80, 90, 95, 99)


def measure(world: World) -> Data:
    """Measure three cases on all tiers, and then shares of hits."""
    many = world.effort.posts
    cases = {
        "page": Request("/v1/posts"),
        "post": Request("/v1/posts/77"),
        "random": Request("/v1/posts/77", script=RANDOM % many),
    }
    if world.effort.is_quick:  # filling the cache takes too long
        del cases["random"]
    found = Data()
    with world.serving(*SERVICES) as services:
        for case, request in cases.items():
            if case == "random":
                for name in ("valkey", "memory"):
                    _fill(world, services[name], many)
            keep_bytes(world, services["memory"], Request(request.path))
            variables = {
                "BENCHMARK_BYTES": str(world.folder / "bytes.json"),
                "WEB_CONCURRENCY": "1",
            }
            with world.serving(Target("raw", (*GUNICORN, "benchmarks.raw:app"), variables)) as raw:
                samples = world.compare(
                    f"Cache, {case}",
                    {**raw, **services},
                    lambda _, request=request: request,  # type: ignore[misc]
                )
            found[case] = as_data(samples)
    return {"posts": many, "tiers": found, "hits": _measure_shares(world)}


def _fill(world: World, server: Server, many: int) -> None:
    """Request all posts once. The longest part of the time is reading them from the database."""
    first = 0
    while first < many:
        world.status.show(f"Filling the cache: {first:,} of {many:,} posts")
        request = Request("", script=IN_ORDER % (first, many))
        sample = measure_load(server.url, request, server=server.process_id, seconds=5)
        first += int(sample.rps * 5)


def _measure_shares(world: World) -> Data:
    """Measure the service with several shares of requests whose response is cached."""
    found, first, many = Data(), 1_000, world.effort.posts
    target = service("mixed", CACHE | {"CACHE_NAMESPACE": "mixed"})
    with world.serving(target) as servers:
        hot = Request("", script=IN_ORDER % (0, 100))
        measure_load(
            servers["mixed"].url, hot, server=servers["mixed"].process_id, seconds=1, connections=1
        )
        for hits in (0, 90) if world.effort.is_quick else SHARES:
            samples = []
            for number_of_round in range(world.effort.rounds):
                world.status.show(f"{hits} % hits: round {number_of_round + 1}")
                request = Request("", script=MIXED % (first, hits / 100, many))
                sample = measure_load(
                    servers["mixed"].url,
                    request,
                    server=servers["mixed"].process_id,
                    postgres=world.postgres_id,
                    seconds=world.effort.seconds,
                )
                samples.append(sample)
                first += int(sample.rps * (world.effort.seconds + 1) * (1 - hits / 100)) + 100
            found |= as_data({str(hits): median_of(samples)})
    world.status.finish("Shares of hits: done")
    return found


def figures(data: Data) -> dict[str, str]:
    return dict(_figures(data))


def _figures(data: Data) -> Iterator[tuple[str, str]]:
    for case, samples in data["tiers"].items():
        for tier, sample in samples.items():
            yield from sample_figures(f"cache.{case}.{tier}", sample)
            yield f"cache.{case}.{tier}.of-raw", number(sample["rps"] / samples["raw"]["rps"])
            gain = sample["rps"] / samples["uncached"]["rps"]
            yield f"cache.{case}.{tier}.gain", ratio(gain)
    for hits, sample in data["hits"].items():
        yield from sample_figures(f"hits.{hits}", sample)


def _titles(data: Data) -> dict[str, str]:
    return {
        "page": "One page of 20 posts",
        "post": "One post",
        "random": f"{data['posts']:,} posts at random",
    }


def report(data: Data) -> str:
    titles = _titles(data)
    parts = [INTRODUCTION]
    for case, samples in data["tiers"].items():
        rows = [
            [
                TIERS[tier],
                number(sample["rps"]),
                share(sample["rps"] / samples["raw"]["rps"]),
                ratio(sample["rps"] / samples["uncached"]["rps"]),
                *(number(sample[name]) for name in ("p50", "p95", "p99", "cpu")),
            ]
            for tier, sample in samples.items()
        ]
        parts += [f"### {titles[case]}", table(HEAD, rows)]
    rows = [
        [f"{hits} %", *(number(sample[name]) for name in ("rps", "p50", "p99", "cpu", "postgres"))]
        for hits, sample in data["hits"].items()
    ]
    head = ("hits", "requests/s", "p50 ms", "p99 ms", "CPU µs", "PG µs")
    return "\n\n".join([*parts, "### How much a share of hits brings", table(head, rows)])


def charts(data: Data) -> list[Chart]:
    tiers = list(TIERS)
    rates = {
        _titles(data)[case]: [samples[tier]["rps"] for tier in tiers]
        for case, samples in data["tiers"].items()
    }
    shares = list(data["hits"])
    mixed = {"requests a second": [data["hits"][one]["rps"] for one in shares]}
    return [
        Bars("cache", "Cached and not", "requests a second", list(TIERS.values()), rates, log=True),
        Lines("hits", "Share of hits", "%", "requests a second", [*map(float, shares)], mixed),
    ]


HEAD = (
    *("served", "requests/s", "share of raw", "times not cached"),
    *("p50 ms", "p95 ms", "p99 ms", "CPU µs"),
)
INTRODUCTION = """One worker, with every middleware on. The raw ASGI application sends the same
bytes under the same server: nothing in Python under this server can be faster. In the last
table, clients request 100 cached posts, and others that nobody has requested before."""
