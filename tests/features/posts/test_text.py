"""The text of a post is kept as it is."""

from typing import Any

import httpx2
import pytest
from hypothesis import example, given

from tests.features.posts.factory import PostFactory
from tests.texts import BOUNDS, texts

Client = httpx2.AsyncClient


@pytest.fixture
async def headers(make: PostFactory) -> dict[str, str]:
    return make.headers(await make.user())


@pytest.mark.slow
@BOUNDS
@given(title=texts(200), text=texts(20_000))
@example(title=" \tA title\n", text="\r\n A body \u2028")
async def test_a_post_comes_back_as_it_was_sent(
    client: Client, headers: dict[str, str], title: str, text: str
) -> None:
    sent: dict[str, Any] = {"title": title, "body": text}
    created = await client.post("/v1/posts", json=sent, headers=headers)
    read = await client.get(created.raise_for_status().headers["location"])
    for response in (created, read):
        assert {name: response.json()[name] for name in sent} == sent
