"""The ladder: all mistakes, mended one at a time, up to this service."""

from collections.abc import Iterator

from benchmarks.cases import (
    TITLES,
    deep_row,
    requests_by_offset,
    requests_of,
    requests_of_service,
    require_equal,
)
from benchmarks.charts import Bars, Chart
from benchmarks.section import Data, as_data, number, ratio, sample_figures, table
from benchmarks.world import Target, World, service, uvicorn

ORDER = 1
TITLE = "The ladder: one mistake less in each step"

NOT_CACHED = {"CACHE_ENABLED": "false"}
VALKEY_ALONE = {"CACHE_NAMESPACE": "ladder-v", "CACHE_MEMORY_TTL_SECONDS": "0"}
IN_PROCESS = {"CACHE_NAMESPACE": "ladder-m"}
# The name in figures, what is mended, and the server.
STEPS: dict[str, tuple[str, Target]] = {
    name: (text, target)
    for name, text, target in (
        (
            "all-mistakes",
            "all mistakes",
            uvicorn("all-mistakes", "benchmarks.mistakes.step_0_all_mistakes:app", fast=False),
        ),
        (
            "pooled-engine",
            "one engine with a pool",
            uvicorn("pooled-engine", "benchmarks.mistakes.step_1_pooled_engine:app", fast=False),
        ),
        (
            "async-driver",
            "a driver that does not block",
            uvicorn("async-driver", "benchmarks.mistakes.step_2_async_driver:app", fast=False),
        ),
        (
            "joined-authors",
            "authors are joined",
            uvicorn("joined-authors", "benchmarks.mistakes.step_3_joined_authors:app", fast=False),
        ),
        (
            "keyset",
            "cursors instead of OFFSET",
            uvicorn("keyset", "benchmarks.mistakes.step_4_keyset:app", fast=False),
        ),
        (
            "asgi-middleware",
            "one pure ASGI middleware",
            uvicorn(
                "asgi-middleware", "benchmarks.mistakes.step_5_asgi_middleware:app", fast=False
            ),
        ),
        (
            "response-model",
            "response models",
            uvicorn("response-model", "benchmarks.mistakes.step_6_response_model:app", fast=False),
        ),
        (
            "uvloop",
            "uvloop and httptools",
            uvicorn("uvloop", "benchmarks.mistakes.step_6_response_model:app"),
        ),
        (
            "autocommit",
            "reads without a transaction",
            uvicorn("autocommit", "benchmarks.mistakes.step_7_autocommit:app"),
        ),
        (
            "fixed-pool",
            "5 connections instead of up to 15",
            uvicorn("fixed-pool", "benchmarks.mistakes.step_8_fixed_pool:app"),
        ),
        (
            "fair-pool",
            "a fair queue for the connections",
            uvicorn("fair-pool", "benchmarks.mistakes.step_9_fair_pool:app"),
        ),
        (
            "two-workers",
            "two workers",
            uvicorn("two-workers", "benchmarks.mistakes.step_9_fair_pool:app", workers=2),
        ),
        ("service", "this service, not cached", service("service", NOT_CACHED, workers=2)),
        (
            "service-valkey",
            "this service, cached in Valkey",
            service("service-valkey", VALKEY_ALONE, workers=2),
        ),
        (
            "service-memory",
            "this service, cached in process",
            service("service-memory", IN_PROCESS, workers=2),
        ),
    )
}
BY_OFFSET = ("all-mistakes", "pooled-engine", "async-driver", "joined-authors")
# A server that blocks answers in batches of 64, so the rate that clients see is 64 ÷ p50.
BLOCKING = ("all-mistakes", "pooled-engine")
THOROUGH = ("page", "deep")  # the others are measured in one round
CACHED = ("service-valkey", "service-memory")
SHOWN = ("rps", "p50", "p95", "p99", "cpu", "postgres", "memory")


def measure(world: World) -> Data:
    """Measure each case on all steps in turns."""
    found: Data = {"row": deep_row(world), "cases": {}}
    with world.serving(*(target for _, target in STEPS.values())) as servers:
        requests = {
            name: requests_by_offset(world) if name in BY_OFFSET else requests_of(world)
            for name in STEPS
        }
        for name in ("service", *CACHED):
            requests[name] = requests_of_service(world, servers["service"])
        for case in ("page",) if world.effort.is_quick else TITLES:
            names = [name for name in STEPS if case not in ("me", "create") or name not in CACHED]
            # Tokens and writes use the cache too, so the service has it there.
            used = servers | ({"service": servers["service-memory"]} if case == "create" else {})
            of_case = {name: requests[name][case] for name in names}
            require_equal(case, used, of_case, names)
            samples = world.compare(
                f"Ladder, {TITLES[case].format(row=found['row'])}",
                {name: used[name] for name in names},
                of_case.__getitem__,
                rounds=None if case in THOROUGH else 1,
            )
            found["cases"][case] = as_data(samples)
    world.delete_new_posts()
    return found


def rate(step: str, sample: dict[str, float]) -> float:
    """Return the requests a second that the clients see."""
    return 64 / sample["p50"] * 1e3 if step in BLOCKING else sample["rps"]


def figures(data: Data) -> dict[str, str]:
    return dict(_figures(data))


def _figures(data: Data) -> Iterator[tuple[str, str]]:
    for case, samples in data["cases"].items():
        rates = {step: rate(step, sample) for step, sample in samples.items()}
        before = first = rates["all-mistakes"]
        for step, sample in samples.items():
            yield from sample_figures(f"ladder.{step}.{case}", sample)
            yield f"ladder.{step}.{case}.rps", number(rates[step])
            yield f"ladder.{step}.{case}.gain", ratio(rates[step] / first)
            yield f"ladder.{step}.{case}.step", ratio(rates[step] / before)
            before = rates[step]
            if case == "page":
                yield f"ladder.{step}.memory", f"{sample['memory']:.0f} MB"


def report(data: Data) -> str:
    parts = [INTRODUCTION]
    for case, samples in data["cases"].items():
        title = TITLES[case].format(row=data["row"])
        first = rate("all-mistakes", samples["all-mistakes"])
        rows = [
            [
                STEPS[step][0],
                number(rate(step, sample)),
                ratio(rate(step, sample) / first),
                *(number(sample[name]) for name in SHOWN[1:]),
            ]
            for step, sample in samples.items()
        ]
        parts += [f"### {title[0].upper()}{title[1:]}", table(HEAD, rows)]
    return "\n\n".join(parts)


def charts(data: Data) -> list[Chart]:
    cases = data["cases"]
    labels = [STEPS[step][0] for step in cases["page"]]
    rates = {
        TITLES[case].format(row=data["row"]): [rate(*pair) for pair in cases[case].items()]
        for case in THOROUGH
        if case in cases
    }
    tails = {"p99": [sample["p99"] for sample in cases["page"].values()]}
    return [
        Bars("ladder-rate", "Requests a second", "requests a second", labels, rates, log=True),
        Bars("ladder-p99", "p99 of the first page", "ms", labels, tails, log=True),
    ]


HEAD = ("step", "requests/s", "gain", "p50 ms", "p95 ms", "p99 ms", "CPU µs", "PG µs", "MB")
INTRODUCTION = """Each row mends one mistake more than the row above it. The code is in
`benchmarks/mistakes/`: each file is the one before with one mistake less. 64 connections stay
open and busy. The first two steps block the event loop and answer in batches of 64, so their
rate is 64 ÷ p50. "Gain" compares with all mistakes. The service has two workers and every
middleware on. In the table of the POST, the service has its cache, so each POST invalidates.

The first step also stops reading the settings for each request. The step to this service mends
four mistakes at once: an access log that blocks, tokens that are verified for each request,
entities in place of rows, and garbage collection during requests. Missing indexes are not among
the mistakes."""
