"""The floors and the rivals: the same four routes in other frameworks, and by hand."""

import json
import urllib.request
from collections.abc import Iterator
from importlib.metadata import version

from benchmarks.cases import TITLES, requests_of, require_equal
from benchmarks.charts import Bars, Chart
from benchmarks.load import Request
from benchmarks.section import Data, as_data, number, ratio, sample_figures, table
from benchmarks.world import Server, Target, World, service, uvicorn
from dev.service import GUNICORN

ORDER = 2
TITLE = "Floors and rivals: other frameworks do the same work"

CASES = ("page", "post", "me", "create")
# The name in figures, the name in the report with its packages, and the server.
RIVALS: dict[str, tuple[str, tuple[str, ...], Target]] = {
    "service": (
        "this service, not cached",
        ("fastapi", "sqlalchemy"),
        service("service", {"CACHE_ENABLED": "false"}),
    ),
    "cached": (
        "this service, cached in process",
        ("fastapi", "sqlalchemy"),
        service("cached", {"CACHE_NAMESPACE": "rivals"}),
    ),
    "idiom": (
        "FastAPI, the usual idiom",
        ("fastapi", "sqlalchemy"),
        uvicorn("idiom", "benchmarks.rivals.fastapi_idiom:app"),
    ),
    "litestar": (
        "Litestar with SQLAlchemy",
        ("litestar", "sqlalchemy"),
        uvicorn("litestar", "benchmarks.rivals.litestar_app:app"),
    ),
    "blacksheep": (
        "BlackSheep with asyncpg",
        ("blacksheep", "asyncpg"),
        uvicorn("blacksheep", "benchmarks.rivals.blacksheep_app:app"),
    ),
    "asyncpg": (
        "FastAPI with asyncpg by hand",
        ("fastapi", "asyncpg"),
        uvicorn("asyncpg", "benchmarks.floors.fastapi_asyncpg:app"),
    ),
}
FLOORS = {"raw": "raw ASGI, the same bytes", "bytes": "FastAPI, the same bytes"}


def measure(world: World) -> Data:
    """Measure each case on all rivals in turns, and then the floors."""
    requests, cases = requests_of(world), Data()
    with world.serving(*(target for _, _, target in RIVALS.values())) as servers:
        floors = _measure_floors(world, servers["cached"])
        for case in ("page", "me") if world.effort.is_quick else CASES:
            names = [name for name in RIVALS if case in ("page", "post") or name != "cached"]
            # Tokens and writes use the cache too, so the service has it there.
            used = servers | ({"service": servers["cached"]} if case == "create" else {})
            require_equal(case, used, dict.fromkeys(names, requests[case]), names)
            request = requests[case]
            samples = world.compare(
                f"Rivals, {TITLES[case]}",
                {name: used[name] for name in names},
                lambda _, request=request: request,  # type: ignore[misc]
            )
            cases[case] = as_data(samples)
    world.delete_new_posts()
    packages = {package for _, found, _ in RIVALS.values() for package in found}
    return {
        "versions": {package: version(package) for package in sorted(packages)},
        "cases": cases,
        "floors": floors,
    }


def _measure_floors(world: World, cached: Server) -> Data:
    """Send the bytes of a cached page from a raw ASGI application, and from FastAPI."""
    bytes_file = world.folder / "bytes.json"
    keep_bytes(world, cached, Request("/v1/posts"))
    variables = {"BENCHMARK_BYTES": str(bytes_file), "WEB_CONCURRENCY": "1"}
    raw = Target("raw", (*GUNICORN, "benchmarks.raw:app"), variables)
    plain = uvicorn("bytes", "benchmarks.floors.fastapi_bytes:app")
    plain = Target(plain.name, plain.module, variables)
    with world.serving(raw, plain) as servers:
        return as_data(world.compare("Floors", servers, lambda _: Request("/v1/posts")))


def keep_bytes(world: World, server: Server, request: Request) -> None:
    """Write down what the service answers from its cache."""
    for _ in range(2):
        with urllib.request.urlopen(server.url + request.path) as response:  # noqa: S310 - our own
            body = response.read().decode()
    headers = [pair for pair in response.getheaders() if pair[0] not in ("date", "connection")]
    (world.folder / "bytes.json").write_text(json.dumps([headers, body]), encoding="utf-8")


def figures(data: Data) -> dict[str, str]:
    return dict(_figures(data))


def _figures(data: Data) -> Iterator[tuple[str, str]]:
    for case, samples in data["cases"].items():
        for name, sample in samples.items():
            yield from sample_figures(f"rivals.{name}.{case}", sample)
            by = samples["service"]["rps"] / sample["rps"]
            yield f"rivals.{name}.{case}.ratio", ratio(by)
        yield from sample_figures(f"floors.asyncpg.{case}", samples["asyncpg"])
    for name, sample in data["floors"].items():
        yield from sample_figures(f"floors.{name}.page", sample)
    for name, (_, packages, _) in RIVALS.items():
        yield f"rivals.{name}.version", data["versions"][packages[0]]


def report(data: Data) -> str:
    parts = [INTRODUCTION]
    for case, samples in data["cases"].items():
        service_sample = samples["service"]
        rows = [
            [
                _title(name, data["versions"]),
                number(sample["rps"]),
                ratio(service_sample["rps"] / sample["rps"]),
                *(number(sample[one]) for one in ("p50", "p95", "p99", "cpu", "postgres")),
                f"{sample['memory']:.0f}",
            ]
            for name, sample in samples.items()
        ]
        if case == "page":
            rows += [
                [
                    FLOORS[name],
                    number(sample["rps"]),
                    ratio(service_sample["rps"] / sample["rps"]),
                    *(number(sample[one]) for one in ("p50", "p95", "p99", "cpu", "postgres")),
                    f"{sample['memory']:.0f}",
                ]
                for name, sample in data["floors"].items()
            ]
        title = TITLES[case]
        parts += [f"### {title[0].upper()}{title[1:]}, one process", table(HEAD, rows)]
    return "\n\n".join(parts)


def _title(name: str, versions: dict[str, str]) -> str:
    title, packages, _ = RIVALS[name]
    return f"{title} ({', '.join(f'{package} {versions[package]}' for package in packages)})"


def charts(data: Data) -> list[Chart]:
    cases = data["cases"]
    labels = [RIVALS[name][0] for name in cases["me"]]
    rates = {
        TITLES[case]: [cases[case][name]["rps"] for name in cases["me"]]
        for case in CASES
        if case in cases
    }
    return [Bars("rivals", "Not cached, one process", "requests a second", labels, rates)]


HEAD = (
    *("server", "requests/s", "service ÷ this", "p50 ms", "p95 ms", "p99 ms", "CPU µs", "PG µs"),
    "MB",
)
INTRODUCTION = """One process each, with uvloop and httptools, and 64 connections. All of them
read the same database, check the same tokens and return the same JSON. This is checked before
anything is measured. The rivals are in `benchmarks/rivals/`, written as the documentation of
each framework teaches it. They have no log, metrics, limits, deadlines or retries. The service
has all of them. "Service ÷ this" compares the rate of the service with that of the row. Its reads
are not cached then. Its POST runs with the cache, and includes the invalidation."""
