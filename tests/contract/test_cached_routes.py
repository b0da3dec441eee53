"""Every route and the cache: what each write drops, what each read shows, and that all is fresh.

A route without a row in a table fails.
"""

import asyncio
from collections.abc import AsyncIterator, Iterator, Sequence
from typing import Any

import httpx2
import pytest
from fastapi import FastAPI

from app.features.users.models import User
from app.infra.web.cacheable import policy_of
from app.settings import Settings
from coherent_cache.store import Store
from tests.application import client_of, recorded_statements, running
from tests.cached_app import (
    NO_CACHE,
    cache_of,
    patient,
    settled,
    stored,
)
from tests.contract.document import APPLICATION, ENDLESS, OPERATIONS, Operation, api_routes
from tests.contract.test_access import Caller, somebody
from tests.factories import PASSWORD, Factory

Client = httpx2.AsyncClient

# What each write drops. `{id}` is of what it has made.
DROPS = {
    "POST /v1/users": ("user:{id}",),
    "PATCH /v1/users/me": ("user:{user_id}",),
    "DELETE /v1/users/me": ("user:{user_id}",),
    "POST /v1/posts": ("post:{id}", "posts:new", "posts:new:{user_id}"),
    "PATCH /v1/posts/{post_id}": ("post:{post_id}",),
    "DELETE /v1/posts/{post_id}": ("post:{post_id}",),
    "POST /v1/posts/{post_id}/comments": ("post:{post_id}",),
    "DELETE /v1/comments/{comment_id}": ("post:{post_id}",),
}
# These change nothing that is shown to anybody.
DROP_NOTHING = {"POST /v1/auth/token", "POST /v1/auth/refresh", "POST /v1/auth/logout"}

# What an answer of each public route shows, when there is one post with one comment by its author.
SHOWS = {
    "GET /v1/posts": ("post:{post_id}", "posts:new", "user:{user_id}"),
    "GET /v1/posts/{post_id}": ("post:{post_id}", "user:{user_id}"),
    "GET /v1/posts/{post_id}/comments": ("post:{post_id}", "user:{user_id}"),
    "GET /v1/users/{user_id}": ("user:{user_id}",),
}
# These depend on who asks, or on this process.
NOT_PUBLIC = {"GET /v1/users/me", "GET /livez", "GET /readyz", "GET /docs", "GET /metrics", "GET /"}

BY_ROUTE = {str(operation): operation for operation in OPERATIONS}


@pytest.fixture(scope="module")
async def uncached(settings: Settings) -> AsyncIterator[FastAPI]:
    async with running(patient(settings, enabled=False)) as app:
        yield app


@pytest.fixture
async def client(service: FastAPI, clean: None) -> AsyncIterator[Client]:
    await settled(service)
    async with client_of(service) as client:
        yield client


@pytest.fixture
def make(service: FastAPI, clean: None) -> Factory:
    return Factory(service.state.resources)


@pytest.fixture
async def owner(client: Client, make: Factory, ids: dict[str, int]) -> Caller:
    """Whose everything in `ids` is."""
    async with make.resources.database.read() as session:
        return await somebody(client, make, await session.get_one(User, ids["user_id"]))


@pytest.fixture
def dropped(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """The tags that are invalidated from now on, in Valkey and for all."""
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


async def call(
    client: Client, operation: Operation, ids: dict[str, int], caller: Caller
) -> httpx2.Response:
    return await client.request(
        operation.method, operation.url(ids), headers=caller.headers, **caller.content(operation)
    )


def routes_of(app: FastAPI, *, reads: bool) -> set[str]:
    return {
        f"{method} {route.path}"
        for route in api_routes(app)
        for method in route.methods or ()
        if (method in ("GET", "HEAD")) is reads
    }


# Writes


def test_every_write_is_known() -> None:
    assert routes_of(APPLICATION, reads=False) == DROPS.keys() | DROP_NOTHING


@pytest.mark.parametrize("route", DROPS)
async def test_a_write_drops_what_shows_it(
    client: Client,
    ids: dict[str, int],
    owner: Caller,
    dropped: list[str],
    statements: list[str],
    route: str,
) -> None:
    dropped.clear()
    statements.clear()
    response = await call(client, BY_ROUTE[route], ids, owner)
    assert response.is_success, response.text
    made = response.json().get("id") if response.content else None
    assert set(dropped) == {tag.format(id=made, **ids) for tag in DROPS[route]}
    noted = [statement for statement in statements if "INSERT INTO cache_outbox" in statement]
    assert len(noted) == 1
    assert statements[-1] == noted[0]  # in the transaction, after what it tells of


@pytest.mark.parametrize("route", sorted(DROP_NOTHING))
async def test_a_write_that_shows_nowhere_drops_nothing(
    client: Client,
    ids: dict[str, int],
    owner: Caller,
    dropped: list[str],
    statements: list[str],
    route: str,
) -> None:
    dropped.clear()
    statements.clear()
    assert (await call(client, BY_ROUTE[route], ids, owner)).is_success
    assert not dropped
    assert not [statement for statement in statements if "cache_outbox" in statement]


@pytest.mark.parametrize("route", DROPS)
async def test_a_refused_write_drops_nothing(
    client: Client,
    make: Factory,
    ids: dict[str, int],
    dropped: list[str],
    statements: list[str],
    route: str,
) -> None:
    dropped.clear()
    statements.clear()
    operation, nobody = BY_ROUTE[route], Caller()
    if operation.needs_account:
        assert (await call(client, operation, ids, nobody)).status_code == 401
    other = Caller(headers=make.headers(await make.user()))
    dropped.clear()
    statements.clear()
    if "id}" in route:
        nowhere = dict.fromkeys(ids, 999_999)
        assert (await call(client, operation, nowhere, other)).status_code == 404
    if operation.media_type is not None:
        wrong = {"json": {"unknown": 1}, "headers": other.headers}
        url = operation.url(ids)
        refused = await client.request(operation.method, url, **wrong)  # type: ignore[arg-type]
        assert refused.status_code == 422
    assert not dropped
    assert not [statement for statement in statements if "cache_outbox" in statement]


# Reads


def test_every_read_is_known() -> None:
    assert routes_of(APPLICATION, reads=True) == SHOWS.keys() | NOT_PUBLIC | ENDLESS
    cached = [route for route in api_routes(APPLICATION) if policy_of(route.endpoint)]
    public = {f"GET {route.path}" for route in cached}
    assert public == SHOWS.keys()


def test_what_may_be_answered_with_304_is_documented() -> None:
    documented = {route for route, operation in BY_ROUTE.items() if "304" in operation.answers}
    assert documented == SHOWS.keys()


@pytest.mark.parametrize("route", SHOWS)
async def test_an_answer_is_kept_with_the_tags_of_all_that_it_shows(
    client: Client, service: FastAPI, ids: dict[str, int], route: str
) -> None:
    url = BY_ROUTE[route].url(ids)
    response = await client.get(url)
    assert response.headers["x-cache"] == "MISS"
    assert f"{url}?" in await stored(service)
    entry = await cache_of(service).store.look_up(f"{url}?")
    assert sorted(entry.tags) == sorted(  # type: ignore[union-attr]
        tag.format_map(ids) for tag in SHOWS[route]
    )


@pytest.mark.parametrize("route", sorted(NOT_PUBLIC))
async def test_an_answer_that_is_not_public_is_not_kept(
    client: Client, service: FastAPI, ids: dict[str, int], owner: Caller, route: str
) -> None:
    url = route.removeprefix("GET ").format_map(ids)
    response = await client.get(url, headers=owner.headers)
    assert response.status_code == 200
    assert "x-cache" not in response.headers
    kept = {key for key in await stored(service) if not key.startswith("account:")}
    assert not kept


# Every read after every write


class World:
    """Many posts of two authors, with comments of both, and all the addresses that show them."""

    def __init__(self, make: Factory, uncached: FastAPI) -> None:
        self.make = make
        self.ids: dict[str, int] = {}
        self.urls: list[str] = []
        self._uncached = uncached

    async def begin(self) -> None:
        owner, other = await self.make.user(name="Ann"), await self.make.user(name="Ben")
        posts = [*await self.make.posts(3, owner), *await self.make.posts(3, other)]
        mine = posts[2]
        comments = [await self.make.comment(mine, author) for author in (owner, other, owner)]
        # Of this moment: what shows them is not settled.
        posts += [await self.make.post(author) for author in (owner, other, owner)]
        self.ids = {"user_id": owner.id, "post_id": mine.id, "comment_id": comments[0].id}
        users, last = [owner.id, other.id], max(post.id for post in posts)
        items = [f"/v1/posts/{post_id}" for post_id in (posts[0].id, mine.id, last, last + 1)]
        self.urls = [
            *items,
            *(f"{item}/comments" for item in items),
            *(f"/v1/users/{user_id}" for user_id in (*users, users[-1] + 1, 999)),
        ]
        lists = ["/v1/posts?", *(f"/v1/posts?author_id={user_id}&" for user_id in (*users, 999))]
        lists.append(f"/v1/posts/{mine.id}/comments?")
        for url in lists:
            for limit in (1, 3, 100):
                self.urls += await self._pages(f"{url}limit={limit}")

    async def _pages(self, url: str) -> list[str]:
        """Return the addresses of all pages, in both directions, by the cursors of this moment."""
        urls, waiting = [url], [url]
        async with client_of(self._uncached) as client:
            while waiting:
                page = (await client.get(waiting.pop())).json()
                for cursor in filter(None, (page["next"], page["prev"])):
                    if (there := f"{url}&cursor={cursor}") not in urls:
                        urls.append(there)
                        waiting.append(there)
        return urls

    async def truth(self) -> dict[str, bytes]:
        """Return every answer as it is without a cache."""
        async with client_of(self._uncached) as client:
            return {url: essence(await client.get(url)) for url in self.urls}


def essence(response: httpx2.Response) -> bytes:
    """Return what must be the same, wherever the answer comes from."""
    etag = response.headers.get("etag", "").replace('-gzip"', '"').encode()
    own_id = response.headers["x-request-id"].encode()
    return b"%d %s " % (response.status_code, etag) + response.content.replace(own_id, b"")


@pytest.fixture
async def world(make: Factory, client: Client, uncached: FastAPI) -> World:
    world = World(make, uncached)
    await world.begin()
    return world


async def answers(client: Client, urls: list[str], **headers: str) -> dict[str, bytes]:
    return {url: essence(await client.get(url, headers=headers)) for url in urls}


WRITES: dict[str, dict[str, Any]] = {
    "PATCH /v1/users/me": {"json": {"name": "Renamed"}},
    "DELETE /v1/users/me": {},
    "POST /v1/posts": {"json": {"title": "New", "body": "New"}},
    "PATCH /v1/posts/{post_id}": {"json": {"title": "Edited"}},
    "DELETE /v1/posts/{post_id}": {},
    "POST /v1/posts/{post_id}/comments": {"json": {"body": "New"}},
    "DELETE /v1/comments/{comment_id}": {},
    "POST /v1/users": {"json": {"email": "new@example.com", "name": "New", "password": PASSWORD}},
}


def test_every_write_is_followed_by_every_read() -> None:
    assert WRITES.keys() == DROPS.keys()


@pytest.mark.parametrize("route", WRITES)
async def test_every_read_after_a_write_shows_it(
    client: Client, world: World, another_process: FastAPI, route: str
) -> None:
    async with client_of(another_process) as other, world.make.resources.database.read() as session:
        caller = await somebody(
            client, world.make, await session.get_one(User, world.ids["user_id"])
        )
        before = await world.truth()
        await settled(another_process)
        # Each process remembers every answer.
        for process in (client, other):
            for _ in range(2):
                assert await answers(process, world.urls) == before
        method, path = route.split()
        response = await client.request(
            method, path.format_map(world.ids), headers=caller.headers, **WRITES[route]
        )
        assert response.is_success, response.text
        mine, theirs = (
            await answers(client, world.urls),
            await answers(other, world.urls, **NO_CACHE),
        )
        after = await world.truth()
        assert after != before
        assert mine == theirs == after
        # The other's memory has heard of it, in a moment.
        await settled(another_process)
        assert await answers(other, world.urls) == after


@pytest.mark.parametrize("number", range(2))
async def test_every_read_after_the_deletion_of_any_post_is_right(
    client: Client, world: World, number: int
) -> None:
    """Each of them is the first, the last or the one after the last on some page."""
    before = await world.truth()
    headers = world.make.headers(User(id=world.ids["user_id"]))
    mine = (await client.get(f"/v1/posts?author_id={world.ids['user_id']}&limit=100")).json()
    assert await answers(client, world.urls) == before
    doomed = [item["id"] for item in mine["items"]][number::2]
    for post_id in doomed:
        response = await client.delete(f"/v1/posts/{post_id}", headers=headers)
        assert response.status_code == 204
        after = await world.truth()
        assert await answers(client, world.urls) == after != before


async def test_no_acknowledged_change_is_missing_while_others_read_and_write(
    client: Client, make: Factory, another_process: FastAPI
) -> None:
    await settled(another_process)
    author = await make.user()
    headers = make.headers(author)
    lists = ("/v1/posts?limit=100", f"/v1/posts?author_id={author.id}&limit=100")

    async def shown(process: Client, url: str) -> dict[int, str]:
        page = (await process.get(url, headers=NO_CACHE)).raise_for_status().json()
        return {item["id"]: item["title"] for item in page["items"]}

    async def change(writer: Client, reader: Client, number: int) -> None:
        url = lists[number % 2]
        new = {"title": "New", "body": "B"}
        post = (await writer.post("/v1/posts", json=new, headers=headers)).raise_for_status()
        post_id, item = post.json()["id"], post.headers["location"]
        assert (await shown(reader, url))[post_id] == "New"
        edit = await reader.patch(item, json={"title": "Edited"}, headers=headers)
        assert edit.raise_for_status().json()["title"] == "Edited"
        assert (await shown(writer, url))[post_id] == "Edited"
        if number % 3:
            (await writer.delete(item, headers=headers)).raise_for_status()
            assert post_id not in await shown(reader, url)
            assert (await reader.get(item, headers=NO_CACHE)).status_code == 404

    async with client_of(another_process) as other:
        await asyncio.gather(
            *(change(client, other, number) for number in range(15)),
            *(change(other, client, number) for number in range(15)),
        )


# A change drops what shows it, and nothing else


async def test_a_comment_drops_the_pages_that_show_its_post_and_no_others(
    client: Client, service: FastAPI, world: World
) -> None:
    shown = f'"id":{world.ids["post_id"]},"author"'.encode()
    await answers(client, world.urls)
    await settled(service)
    sources = {url: await client.get(url) for url in world.urls}
    assert {answer.headers["x-cache"] for answer in sources.values()} == {"HIT-L1"}
    headers = world.make.headers(User(id=world.ids["user_id"]))
    item = f"/v1/posts/{world.ids['post_id']}"
    comment = await client.post(f"{item}/comments", json={"body": "B"}, headers=headers)
    assert comment.status_code == 201
    await settled(service)
    kept = dropped = 0
    for url, before in sources.items():
        shows_it = shown in before.content or url.startswith(f"{item}/") or url == item
        source = (await client.get(url)).headers["x-cache"]
        if shows_it:
            assert source == "MISS", url
            dropped += 1
        elif url.startswith("/v1/posts?") and await _peeks(service, url, world.ids["post_id"]):
            continue
        else:
            assert source == "HIT-L1", url
            kept += 1
    assert dropped > 5
    assert kept > 20


async def _peeks(service: FastAPI, url: str, post_id: int) -> bool:
    """Whether the post comes right after the page, which is told by it that more follows."""
    path, _, query = url.partition("?")
    key = f"{path}?{'&'.join(sorted(query.split('&')))}"
    entry = await cache_of(service).store.look_up(key)
    return f"post:{post_id}" in entry.tags  # type: ignore[union-attr]


async def test_a_renamed_author_drops_what_shows_their_name_and_nothing_else(
    client: Client, service: FastAPI, world: World
) -> None:
    shown = b'"id":%d,"name":' % world.ids["user_id"]
    before = {url: await client.get(url) for url in world.urls}
    headers = world.make.headers(User(id=world.ids["user_id"]))
    await client.patch("/v1/users/me", json={"name": "Renamed"}, headers=headers)
    await settled(service)
    for url, answer in before.items():
        source = (await client.get(url)).headers["x-cache"]
        assert source == ("MISS" if shown in answer.content else "HIT-L1"), url
