"""What a request costs that goes to the last of many routes."""

from benchmarks.load import Request
from benchmarks.section import Data, as_data, number, table
from benchmarks.world import Target, World
from dev.service import GUNICORN

ORDER = 16
TITLE = "The last of 41 routes"

HOT = Request("/v1/measured/77/last")
FEATURE, OTHER_FEATURE = "/v1/measured", "/v1/others"
PLAIN, WITH_PARAMETER = "/part-#", "/{number}/part-#"
# By the name in figures: the text for the report, and the other routes. These are their number,
# the prefix of their router, and their path.
SERVERS = {
    "one": ("nothing", (0, FEATURE, PLAIN)),
    "others": ("40 routes of another feature", (40, OTHER_FEATURE, WITH_PARAMETER)),
    "plain": ("40 routes of its feature, without parameters", (40, FEATURE, PLAIN)),
    "parameters": ("40 routes of its feature, with parameters", (40, FEATURE, WITH_PARAMETER)),
}


def measure(world: World) -> Data:
    targets = [_with_routes(name, *routes) for name, (_, routes) in SERVERS.items()]
    with world.serving(*targets) as servers:
        return as_data(world.compare("Routes", servers, lambda _: HOT))


def _with_routes(name: str, count: int, prefix: str, path: str) -> Target:
    """Return the service with the measured route, and so many routes before it."""
    routes = {"ROUTES": str(count), "PREFIX": prefix, "PATH": path}
    environment = {f"BENCHMARK_{key}": value for key, value in routes.items()}
    module = (*GUNICORN, "benchmarks.routes_server:app")
    return Target(name, module, {"WEB_CONCURRENCY": "1", **environment})


def figures(data: Data) -> dict[str, str]:
    found = {f"routes.{name}.cpu": f"{number(one['cpu'])} µs" for name, one in data.items()}
    return found | {f"routes.{name}.ratio": f"{_of_one(data, name):.2f}×" for name in data}


def _of_one(data: Data, name: str) -> float:
    return float(data[name]["cpu"] / data["one"]["cpu"])


def report(data: Data) -> str:
    rows = [
        [SERVERS[name][0], number(one["cpu"]), f"{_of_one(data, name):.2f}"]
        for name, one in data.items()
    ]
    return f"{INTRODUCTION}\n\n{table(('before the route', 'CPU µs', 'of the first'), rows)}"


INTRODUCTION = """A route that answers at once is added to the service, in a router, as a feature
adds its own. It is the last route, and the table shows what it costs when others are before it. One
worker serves it."""
