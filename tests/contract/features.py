"""Collects the contracts of all features, and says what is missing in them."""

import tomllib
from collections.abc import Iterable
from importlib import import_module
from pathlib import Path

from fastapi.routing import RouteContext

from app.features.users.models import User
from app.infra.dependencies import ProcessResources
from app.infra.web.cacheable import policy_of
from tests.contract.declaration import Contract, Ids, Route, World

PROJECT = Path(__file__).parents[2]


def features_in_order() -> list[str]:
    """Return the names of the features in pyproject.toml, each parent before its children."""
    text = (PROJECT / "pyproject.toml").read_text(encoding="utf-8")
    contracts = tomllib.loads(text)["tool"]["importlinter"]["contracts"]
    [layers] = [one["layers"] for one in contracts if one.get("containers") == ["app.features"]]
    return [name.strip() for layer in reversed(layers) for name in layer.split("|")]


def collect() -> list[Contract]:
    """Import the contract of the infrastructure and those of the features that have one."""
    folders = ["infra", *(f"features/{name}" for name in features_in_order())]
    found: list[Contract] = []
    for folder in folders:
        if (PROJECT / "tests" / folder / "contract.py").exists():
            module = import_module(f"tests.{folder.replace('/', '.')}.contract")
            found.append(module.CONTRACT)
    return found


CONTRACTS = collect()
ROWS: dict[str, Route] = {
    route: row for contract in CONTRACTS for route, row in contract.routes.items()
}
ENDLESS = {route for route, row in ROWS.items() if row.is_endless}
CACHED = {route: row.shows for route, row in ROWS.items() if row.shows is not None}
DROPS = {route: row.drops for route, row in ROWS.items() if row.drops}
DROPS_NOTHING = {route for route, row in ROWS.items() if row.drops == ()}


async def make_rows(resources: ProcessResources, owner: User) -> Ids:
    """Make one row of everything for a user, and return the ids."""
    ids = {"user_id": owner.id}
    for contract in CONTRACTS:
        if contract.make_rows is not None:
            ids |= await contract.make_rows(resources, ids)
    return ids


async def populate(world: World) -> None:
    """Make many rows of everything."""
    for contract in CONTRACTS:
        if contract.populate is not None:
            await contract.populate(world)


def problems_of(routes: Iterable[RouteContext]) -> list[str]:
    """Return a sentence for each row that is missing, incomplete, or left over."""
    known = {f"{method} {route.path}": route for route in routes for method in route.methods or ()}
    found = [sentence for name, route in known.items() if (sentence := problem_of(name, route))]
    left_over = sorted(ROWS.keys() - known.keys())
    return found + [f"{name} is no route any more: remove its row." for name in left_over]


def problem_of(name: str, route: RouteContext) -> str | None:
    """Return what has to be written for a route, and where."""
    row, is_read = ROWS.get(name), name.startswith("GET ")
    where = file_of(route)
    if row is None:
        file = "Write it in" if (PROJECT / where).exists() else "Create"
        return f"{name} has no row. {file} {where}:\n{example(name, route)}"
    if policy_of(route.endpoint) and row.shows is None:
        return f'{name} is cached: add to its row in {where} what it shows: shows=("thing:{{id}}",)'
    if not policy_of(route.endpoint) and row.shows is not None:
        return f"{name} is not cached: remove `shows` from its row in {where}."
    if not is_read and row.drops is None:
        return f"{name} writes: add to its row in {where} the tags that it drops: drops=()"
    return None


def file_of(route: RouteContext) -> str:
    """Return the file in which the row of a route has to be."""
    package, _, rest = route.endpoint.__module__.removeprefix("app.").partition(".")
    feature = rest.partition(".")[0]
    return f"tests/features/{feature}/contract.py" if package == "features" else INFRA


INFRA = "tests/infra/contract.py"


def example(name: str, route: RouteContext) -> str:
    """Return the text to write for a route, with a guess at its statuses."""
    status = route.status_code or 200
    if policy_of(route.endpoint):
        row = f'Route({status}, {status}, {status}, {status}, shows=("thing:{{thing_id}}",))'
    elif name.startswith("GET "):
        row = f"Route({status}, {status}, 401, 401)"
    else:
        row = f'Route({status}, 403, 401, 401, drops=("thing:{{thing_id}}",))'
    lines = [
        "    from tests.contract.declaration import Contract, Route",
        "    # The statuses of: the owner, another user, nobody, a deleted account.",
        f'    CONTRACT = Contract({{"{name}": {row}}})',
    ]
    return "\n".join(lines)
