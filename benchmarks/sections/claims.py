"""The claims: what well-known articles promise, beside what it is here."""

from benchmarks import claims
from benchmarks.load import Request
from benchmarks.section import Data, ratio, share, table
from benchmarks.sections import ladder
from benchmarks.world import World, uvicorn

ORDER = 15
TITLE = "The claims"

# What the articles say, and where the figure here comes from.
CLAIMS = {
    "pooling": ("a pool of connections: 5–10×", "the ladder, first page"),
    "async": ("async drivers: 2–5×", "the ladder, first page, with N+1 in both steps"),
    "n-plus-one": (
        "no N+1 queries: 10–50×",
        "the ladder, first page: 1 statement instead of up to 21",
    ),
    "base-http-middleware": (
        "BaseHTTPMiddleware is slow",
        "the ladder: two of them, beside one ASGI middleware",
    ),
    "uvloop": ("uvloop: 2–4×", "the ladder, with httptools, first page"),
    "workers": ("4 workers: 4×", "the ladder: 2 workers on 2 cores, which clients share"),
    "caching": ("caching: 10–100×", "the ladder: in process, beside not cached"),
    "orjson": ("orjson: 2–3×", "a page of 20 posts, without the rest of the request"),
    "pydantic-objects": (
        "Pydantic objects: 6.5× slower",
        "beside a dataclass with these fields",
    ),
    "double-validation": (
        "double validation: 20–50 %",
        "CPU of a request whose route returns a validated dictionary, compared with bytes",
    ),
    "threads": ("def routes: 40 at a time", "200 clients of a route that waits for 50 ms"),
    "all": ("all together: 10×", "the ladder: this service, not cached, beside all mistakes"),
}
# Claims that compare two steps of the ladder.
STEPS = {
    "pooling": ("pooled-engine", "all-mistakes"),
    "async": ("async-driver", "pooled-engine"),
    "n-plus-one": ("joined-authors", "async-driver"),
    "base-http-middleware": ("asgi-middleware", "keyset"),
    "uvloop": ("uvloop", "response-model"),
    "workers": ("two-workers", "fair-pool"),
    "caching": ("service-memory", "service"),
    "all": ("service", "all-mistakes"),
}


def measure(world: World) -> Data:
    world.status.show("Claims")
    found: Data = claims.measure(0.2 if world.effort.is_quick else 1.5)
    with world.serving(uvicorn("threads", "benchmarks.threads_server:app")) as servers:
        for path in ("def", "async"):
            samples = world.compare(
                f"Claims, {path} routes",
                servers,
                lambda _, path=path: Request(f"/{path}"),  # type: ignore[misc]
                connections=200,
            )
            found[f"{path}_routes"] = float(f"{samples['threads'].rps:.3g}")
    if "ladder" in world.measured:
        page = world.measured["ladder"]["cases"]["page"]
        for name, (after, before) in STEPS.items():
            gain = ladder.rate(after, page[after]) / ladder.rate(before, page[before])
            found[name] = float(f"{gain:.3g}")
    return found


def figures(data: Data) -> dict[str, str]:
    found = {f"claims.{name}.here": _here(name, data) for name in CLAIMS if _is_known(name, data)}
    return found | {f"claims.{name}.claim": claim for name, (claim, _) in CLAIMS.items()}


def _is_known(name: str, data: Data) -> bool:
    return name in data or name == "threads"


def _here(name: str, data: Data) -> str:
    if name == "threads":
        return f"{data['def_routes']:,.0f} a second, and {data['async_routes']:,.0f} with async def"
    if name == "double-validation":
        return share(data[name] - 1)
    return ratio(data[name])


def report(data: Data) -> str:
    rows = [
        [claim, _here(name, data), source]
        for name, (claim, source) in CLAIMS.items()
        if _is_known(name, data)
    ]
    return f"{INTRODUCTION}\n\n{table(('the articles', 'here', 'measured by'), rows)}"


INTRODUCTION = """Figures that well-known articles on FastAPI promise, beside what this machine
measures. A gain depends on what else a request does, so a mistake that is mended early or alone
brings another figure."""
