"""Many rows of every feature, every address that shows them, and the true answers."""

import httpx2
from fastapi import FastAPI

from app.features.users.models import Role
from tests.application import client_of
from tests.contract.declaration import World
from tests.contract.features import populate
from tests.features.users.factory import UserFactory

Client = httpx2.AsyncClient


async def build_world(make: UserFactory, uncached: FastAPI) -> World:
    """Make the rows of all features, and collect all addresses, those of all pages too."""
    owner, other = [await make.user(name=name, role=Role.ADMIN) for name in ("Ann", "Ben")]
    world = World(make.resources, owner, other, {"user_id": owner.id})
    await populate(world)
    async with client_of(uncached) as client:
        for url in world.lists:
            for limit in (1, 3, 100):
                world.urls += await pages(client, f"{url}limit={limit}")
    return world


async def pages(client: Client, url: str) -> list[str]:
    """Return the addresses of all pages of a list, by the cursors of this moment."""
    urls, waiting = [url], [url]
    while waiting:
        page = (await client.get(waiting.pop())).json()
        for cursor in filter(None, (page["next"], page["prev"])):
            if (there := f"{url}&cursor={cursor}") not in urls:
                urls.append(there)
                waiting.append(there)
    return urls


async def truth(uncached: FastAPI, urls: list[str]) -> dict[str, bytes]:
    """Return every answer of an application that has no cache."""
    async with client_of(uncached) as client:
        return await answers(client, urls)


async def answers(client: Client, urls: list[str], **headers: str) -> dict[str, bytes]:
    """Return the answers to these addresses."""
    return {url: essence(await client.get(url, headers=headers)) for url in urls}


def essence(response: httpx2.Response) -> bytes:
    """Return the parts of a response that are the same, wherever it comes from."""
    etag = response.headers.get("etag", "").replace('-gzip"', '"').encode()
    own_id = response.headers["x-request-id"].encode()
    return b"%d %s " % (response.status_code, etag) + response.content.replace(own_id, b"")
