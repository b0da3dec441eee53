"""A comment changes what is cached of its post, and nothing else."""

from collections.abc import AsyncIterator

import httpx2
import pytest
from fastapi import FastAPI

from tests.application import client_of
from tests.cached_app import cache_of, settled
from tests.contract.declaration import World
from tests.contract.world import answers, build_world
from tests.features.comments.factory import CommentFactory

Client = httpx2.AsyncClient


@pytest.fixture
async def client(service: FastAPI, clean: None) -> AsyncIterator[Client]:
    await settled(service)
    async with client_of(service) as client:
        yield client


@pytest.fixture
def make(service: FastAPI, clean: None) -> CommentFactory:
    return CommentFactory(service.state.resources)


@pytest.fixture
async def world(make: CommentFactory, client: Client, uncached: FastAPI) -> World:
    return await build_world(make, uncached)


@pytest.mark.slow
async def test_a_comment_drops_the_pages_that_show_its_post_and_no_others(
    client: Client, service: FastAPI, make: CommentFactory, world: World
) -> None:
    shown = f'"id":{world.ids["post_id"]},"author"'.encode()
    await answers(client, world.urls)
    await settled(service)
    sources = {url: await client.get(url) for url in world.urls}
    assert {answer.headers["x-cache"] for answer in sources.values()} == {"HIT-L1"}
    headers = make.headers(world.owner)
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
    """Return whether the post comes directly after the page, which shows that a page follows."""
    path, _, query = url.partition("?")
    key = f"{path}?{'&'.join(sorted(query.split('&')))}"
    entry = await cache_of(service).store.look_up(key)
    return f"post:{post_id}" in entry.tags  # type: ignore[union-attr]


async def test_comment_changes_the_etag_of_its_post_but_not_the_version(
    client: Client, make: CommentFactory
) -> None:
    author = await make.user()
    url = f"/v1/posts/{(await make.post(author)).id}"
    seen = (await client.get(url)).headers["etag"]
    commenter = make.headers(await make.user())
    await client.post(f"{url}/comments", json={"body": "B"}, headers=commenter)
    assert (await client.get(url)).headers["etag"] != seen
    headers = make.headers(author) | {"If-Match": seen}
    assert (await client.patch(url, json={"title": "New"}, headers=headers)).status_code == 200
