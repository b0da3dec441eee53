"""Pages of posts are right after every change, whichever row of a page it concerns."""

import asyncio
from collections.abc import AsyncIterator

import httpx2
import pytest
from fastapi import FastAPI

from tests.application import client_of
from tests.cached_app import NO_CACHE, settled
from tests.contract.declaration import World
from tests.contract.world import answers, build_world, truth
from tests.features.posts.factory import PostFactory

Client = httpx2.AsyncClient


@pytest.fixture
async def client(service: FastAPI, clean: None) -> AsyncIterator[Client]:
    await settled(service)
    async with client_of(service) as client:
        yield client


@pytest.fixture
def make(service: FastAPI, clean: None) -> PostFactory:
    return PostFactory(service.state.resources)


@pytest.fixture
async def world(make: PostFactory, client: Client, uncached: FastAPI) -> World:
    return await build_world(make, uncached)


@pytest.mark.slow
@pytest.mark.parametrize("number", range(2))
async def test_every_read_after_the_deletion_of_any_post_is_right(
    client: Client, make: PostFactory, uncached: FastAPI, world: World, number: int
) -> None:
    """Return posts that are the first, the last, or directly after the last on a page."""
    before = await truth(uncached, world.urls)
    headers = make.headers(world.owner)
    mine = (await client.get(f"/v1/posts?author_id={world.owner.id}&limit=100")).json()
    assert await answers(client, world.urls) == before
    doomed = [item["id"] for item in mine["items"]][number::2]
    for post_id in doomed:
        response = await client.delete(f"/v1/posts/{post_id}", headers=headers)
        assert response.status_code == 204
        after = await truth(uncached, world.urls)
        assert await answers(client, world.urls) == after != before


@pytest.mark.slow
async def test_no_acknowledged_change_is_missing_while_others_read_and_write(
    client: Client, make: PostFactory, another_process: FastAPI
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


@pytest.mark.parametrize("query", ["", "author_id={}&"])
async def test_a_new_post_drops_the_first_page_and_no_settled_one(
    client: Client, service: FastAPI, make: PostFactory, query: str
) -> None:
    author = await make.user()
    await make.posts(5, author)  # all of them are older than any transaction
    url = f"/v1/posts?{query.format(author.id)}limit=1"
    pages = [url]
    while cursor := (await client.get(pages[-1])).json()["next"]:
        pages.append(f"{url}&cursor={cursor}")
    new = {"title": "New", "body": "B"}
    await client.post("/v1/posts", json=new, headers=make.headers(author))
    await settled(service)
    sources = [(await client.get(page)).headers["x-cache"] for page in pages]
    assert sources == ["MISS"] + ["HIT-L1"] * 4
