"""What each write drops from the cache, what each cached answer shows, and that all is fresh.

The tags are in the rows of tests/features/<name>/contract.py.
"""

from collections.abc import AsyncIterator, Iterator, Sequence

import httpx2
import pytest
from fastapi import FastAPI

from app.features.users.models import Role
from coherent_cache.store import Store
from tests.application import client_of, recorded_statements
from tests.cached_app import NO_CACHE, cache_of, settled, stored
from tests.contract.callers import Caller, log_in
from tests.contract.calls import call
from tests.contract.declaration import Ids, World
from tests.contract.document import BY_ROUTE
from tests.contract.features import CACHED, DROPS, DROPS_NOTHING, ENDLESS, ROWS
from tests.contract.world import answers, build_world, truth
from tests.features.users.factory import UserFactory

Client = httpx2.AsyncClient

NOT_CACHED = sorted(
    route for route in ROWS.keys() - CACHED.keys() - ENDLESS if route.startswith("GET ")
)


@pytest.fixture
async def client(service: FastAPI, clean: None) -> AsyncIterator[Client]:
    await settled(service)
    async with client_of(service) as client:
        yield client


@pytest.fixture
def make(service: FastAPI, clean: None) -> UserFactory:
    return UserFactory(service.state.resources)


@pytest.fixture
def dropped(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """The tags that are invalidated in Valkey from now on."""
    tags_of_all: list[str] = []
    invalidate = Store.invalidate

    async def recorded(self: Store, tags: Sequence[str]) -> None:
        await invalidate(self, tags)
        tags_of_all.extend(tags)

    monkeypatch.setattr(Store, "invalidate", recorded)
    return tags_of_all


@pytest.fixture
def statements(service: FastAPI) -> Iterator[list[str]]:
    with recorded_statements(service.state.resources) as sent:
        yield sent


# Writes


@pytest.mark.parametrize("route", DROPS)
async def test_a_write_drops_what_shows_it(
    client: Client,
    ids: Ids,
    owner: Caller,
    dropped: list[str],
    statements: list[str],
    route: str,
) -> None:
    dropped.clear()
    statements.clear()
    response = await call(client, route, ids, owner)
    assert response.is_success, response.text
    made = response.json().get("id") if response.content else None
    assert set(dropped) == {tag.format(id=made, **ids) for tag in DROPS[route]}
    noted = [statement for statement in statements if "INSERT INTO cache_outbox" in statement]
    assert len(noted) == 1
    assert statements[-1] == noted[0]  # in the transaction, after the change itself


@pytest.mark.parametrize("route", sorted(DROPS_NOTHING))
async def test_a_write_that_is_shown_nowhere_drops_nothing(
    client: Client,
    ids: Ids,
    owner: Caller,
    dropped: list[str],
    statements: list[str],
    route: str,
) -> None:
    dropped.clear()
    statements.clear()
    assert (await call(client, route, ids, owner)).is_success
    assert not dropped
    assert not [statement for statement in statements if "cache_outbox" in statement]


@pytest.mark.parametrize("route", DROPS)
async def test_a_refused_write_drops_nothing(
    client: Client,
    make: UserFactory,
    ids: Ids,
    dropped: list[str],
    statements: list[str],
    route: str,
) -> None:
    dropped.clear()
    statements.clear()
    operation = BY_ROUTE[route]
    if operation.needs_account:
        assert (await call(client, route, ids, Caller())).status_code == 401
    other = Caller(headers=make.headers(await make.user(role=Role.ADMIN)))
    dropped.clear()
    statements.clear()
    if "id}" in route:
        nowhere = dict.fromkeys(ids, 999_999)
        assert (await call(client, route, nowhere, other)).status_code == 404
    if operation.media_type is not None:
        refused = await client.request(
            operation.method, operation.url(ids), json={"unknown": 1}, headers=other.headers
        )
        assert refused.status_code in (415, 422)
    assert not dropped
    assert not [statement for statement in statements if "cache_outbox" in statement]


# Reads


def test_a_304_is_documented_for_answers_that_may_be_kept_alone() -> None:
    documented = {route for route, operation in BY_ROUTE.items() if "304" in operation.answers}
    own = {route for route, row in ROWS.items() if "public" in (row.cache_control or "")}
    assert documented == CACHED.keys() | own


@pytest.mark.parametrize("route", CACHED)
async def test_a_cached_answer_has_the_tags_of_everything_that_it_shows(
    client: Client, service: FastAPI, ids: Ids, route: str
) -> None:
    url = BY_ROUTE[route].url(ids)
    response = await client.get(url)
    assert response.headers["x-cache"] == "MISS"
    assert f"{url}?" in await stored(service)
    entry = await cache_of(service).store.look_up(f"{url}?")
    assert sorted(entry.tags) == sorted(  # type: ignore[union-attr]
        tag.format_map(ids) for tag in CACHED[route]
    )


@pytest.mark.parametrize("route", NOT_CACHED)
async def test_an_answer_of_any_other_route_is_not_cached(
    client: Client, service: FastAPI, ids: Ids, owner: Caller, route: str
) -> None:
    url = route.removeprefix("GET ").format_map(ids)
    response = await client.get(url, headers=owner.headers)
    assert response.status_code == 200
    assert "x-cache" not in response.headers
    kept = {key for key in await stored(service) if not key.startswith("account:")}
    assert not kept


# Every read after every write


@pytest.fixture
async def world(make: UserFactory, client: Client, uncached: FastAPI) -> World:
    return await build_world(make, uncached)


@pytest.mark.parametrize("route", DROPS)
async def test_every_read_after_a_write_shows_it(
    client: Client, world: World, another_process: FastAPI, uncached: FastAPI, route: str
) -> None:
    async with client_of(another_process) as other:
        caller = await log_in(client, world.owner)
        before = await truth(uncached, world.urls)
        await settled(another_process)
        # Each process remembers every answer.
        for process in (client, other):
            for _ in range(2):
                assert await answers(process, world.urls) == before
        response = await call(client, route, world.ids, caller)
        assert response.is_success, response.text
        mine = await answers(client, world.urls)
        theirs = await answers(other, world.urls, **NO_CACHE)
        after = await truth(uncached, world.urls)
        assert (after != before) == ROWS[route].changes_cached_answers
        assert mine == theirs == after
        # In a moment, the memory of the other process has received the invalidation.
        await settled(another_process)
        assert await answers(other, world.urls) == after


async def test_a_renamed_user_drops_what_shows_their_name_and_nothing_else(
    client: Client, service: FastAPI, world: World
) -> None:
    shown = b'"id":%d,"name":' % world.owner.id
    before = {url: await client.get(url) for url in world.urls}
    headers = UserFactory(world.resources).headers(world.owner)
    await client.patch("/v1/users/me", json={"name": "Renamed"}, headers=headers)
    await settled(service)
    for url, answer in before.items():
        source = (await client.get(url)).headers["x-cache"]
        assert source == ("MISS" if shown in answer.content else "HIT-L1"), url
