"""On every route, a query parameter that takes one value is refused if it is sent twice."""

from collections.abc import Sequence
from enum import StrEnum
from typing import Annotated

import httpx2
import pytest
from fastapi import APIRouter, FastAPI, Query
from pydantic import BaseModel

from app.main import create_app
from app.settings import Settings
from tests.application import client_of
from tests.contract.declaration import Ids
from tests.contract.document import OPERATIONS, Operation
from tests.contract.features import CACHED

Client = httpx2.AsyncClient

PLACES = [
    (operation, parameter["name"])
    for operation in OPERATIONS
    for parameter in operation.parameters
    if parameter["in"] == "query"
]


class Kind(StrEnum):
    A = "a"


class Filters(BaseModel):
    author: int = 1
    tags: list[str] = []


@pytest.fixture
async def own(settings: Settings) -> FastAPI:
    """An application whose routes declare single values and lists in every possible way."""
    app = create_app(settings)
    router = APIRouter(prefix="/things")

    @router.get("")
    async def list_things(
        kind: Kind | None = None,
        word: Annotated[str, Query(alias="q")] = "",
        ids: Annotated[list[int] | None, Query()] = None,
        names: Annotated[Sequence[str], Query()] = (),
    ) -> list[int]:
        return ids or []

    @app.get("/filtered")
    async def filtered(filters: Annotated[Filters, Query()]) -> list[str]:
        return filters.tags

    @app.get("/perhaps-filtered")
    async def perhaps_filtered(filters: Annotated[Filters | None, Query()] = None) -> list[str]:
        return filters.tags if filters else []

    app.include_router(router)
    app.include_router(router, prefix="/nested")
    return app


@pytest.mark.parametrize(("operation", "name"), PLACES, ids=str)
async def test_a_repeated_parameter_is_refused(
    client: Client, ids: Ids, operation: Operation, name: str
) -> None:
    for values in (("5", "6"), ("5", "5"), ("5", ""), ("", "5"), ("a", "b"), ("1", "1", "1")):
        query = "&".join(f"{name}={value}" for value in values)
        for url in (
            f"?{query}",
            f"?x=1&{query}&x=2",
            f"?{name}=5&x=1&%{ord(name[0]):x}{name[1:]}=6",
        ):
            for _ in range(2):  # the second could be from the cache
                response = await client.request(operation.method, operation.url(ids) + url)
                assert response.status_code == 422, url
                assert response.json()["code"] == "invalid_request"
                assert response.json()["errors"] == [
                    {"loc": ["query", name], "msg": "Input should be sent once", "type": "repeated"}
                ]


async def test_parameters_that_no_route_takes_may_be_repeated(client: Client, ids: Ids) -> None:
    for route in CACHED:
        url = route.removeprefix("GET ").format_map(ids)
        assert (await client.get(f"{url}?utm=1&utm=2")).status_code == 200
    assert (await client.get("/livez?limit=5&limit=6")).status_code == 200


@pytest.mark.parametrize("path", ["/things", "/nested/things"])
async def test_repeated_parameter_is_accepted_where_a_list_is_expected(
    own: FastAPI, path: str
) -> None:
    async with client_of(own) as client:
        many = await client.get(f"{path}?ids=1&ids=2&names=a&names=b&kind=a&q=x")
        assert (many.status_code, many.json()) == (200, [1, 2])
        for name in ("kind", "q"):
            refused = await client.get(f"{path}?{name}=a&{name}=a")
            assert refused.status_code == 422
            assert refused.json()["errors"][0]["loc"] == ["query", name]


async def test_fields_of_a_query_model_are_checked_as_parameters(own: FastAPI) -> None:
    async with client_of(own) as client:
        for path in ("/filtered", "/perhaps-filtered"):
            assert (await client.get(f"{path}?tags=a&tags=b&author=1")).json() == ["a", "b"]
            assert (await client.get(f"{path}?author=1&author=2")).status_code == 422
