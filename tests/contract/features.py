"""Collects the contracts of all features, and says what is missing in them."""

from importlib import import_module
from pathlib import Path

from fastapi.routing import RouteContext

from app.features.users.models import User
from app.infra.resources import ProcessResources
from app.infra.web.cacheable import policy_of
from dev.features import features_in_order
from tests.contract.declaration import Contract, Ids, Route, World
from tests.contract.document import BY_ROUTE, ROUTES

PROJECT = Path(__file__).parents[2]


def collect() -> list[Contract]:
    """Import the contract of the infrastructure and those of the features that have one."""
    folders = ["infra", *(f"features/{name}" for name in features_in_order())]
    found: list[Contract] = []
    for folder in folders:
        if (PROJECT / "tests" / folder / "contract.py").exists():
            module = import_module(f"tests.{folder.replace('/', '.')}.contract")
            found.append(module.CONTRACT)
    return found


class Rows(dict[str, Route]):
    """The rows of all features by method and path."""

    def __missing__(self, name: str) -> Route:
        raise AssertionError(problem_of(name, ROUTES[name]))


CONTRACTS = collect()
ROWS = Rows({route: row for contract in CONTRACTS for route, row in contract.routes.items()})
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


def problems() -> list[str]:
    """Return a sentence for each row that is missing, incomplete, or left over."""
    found = [sentence for name, route in ROUTES.items() if (sentence := problem_of(name, route))]
    left_over = sorted(ROWS.keys() - ROUTES.keys())
    return found + [f"{name} is not a route any more. Remove its row." for name in left_over]


def problem_of(name: str, route: RouteContext) -> str | None:
    """Return what has to be written for a route, and where."""
    row, is_cached, file = ROWS.get(name), policy_of(route.endpoint) is not None, file_of(route)
    if row is None and (PROJECT / file).exists():
        return f"{name} has no row. Add to `routes` in {file}: {example(name, route)}"
    if row is None:
        return f"{name} has no row. Write {file}:\n{NEW_FILE.format(example(name, route))}"
    if is_cached and row.shows is None:
        return f'{name} is cached. Add to its row in {file} what it shows: shows=("thing:{{id}}",)'
    if not is_cached and row.shows is not None:
        return f"{name} is not cached. Remove `shows` from its row in {file}."
    if not name.startswith("GET ") and row.drops is None:
        return f"{name} writes. Add to its row in {file} the tags that it drops, or: drops=()"
    return None


def file_of(route: RouteContext) -> str:
    """Return the file in which the row of a route has to be."""
    module = getattr(route.endpoint, "__module__", "")
    package, _, rest = module.removeprefix("app.").partition(".")
    feature = rest.partition(".")[0]
    is_feature = package == "features"
    return f"tests/features/{feature}/contract.py" if is_feature else "tests/infra/contract.py"


NEW_FILE = """
    from tests.contract.declaration import Contract, Route

    # The statuses of a row are those of the owner, another user, nobody, and a deleted account.
    CONTRACT = Contract({{{}}})
"""


def example(name: str, route: RouteContext) -> str:
    """Return the row to write, with a guess at its statuses and tags."""
    success = route.status_code or 200
    operation = BY_ROUTE.get(name)
    is_private = operation is not None and operation.needs_account
    others = (success, 401, 401) if is_private else (success, success, success)
    statuses = ", ".join(map(str, (success, *others)))
    if policy_of(route.endpoint) is not None:
        return f'"{name}": Route({statuses}, shows=("thing:{{thing_id}}",))'
    if name.startswith("GET "):
        return f'"{name}": Route({statuses})'
    return f'"{name}": Route({statuses}, drops=("thing:{{thing_id}}",))'
