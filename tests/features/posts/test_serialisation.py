"""A post is validated and serialised once for each response."""

import json
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import httpx2
import pytest
from pydantic_core import SchemaSerializer, SchemaValidator

from app.infra.web.etags import entity_tag
from tests.cached_app import NO_STORE
from tests.features.posts.factory import PostFactory

Client = httpx2.AsyncClient


@contextmanager
def counting() -> Iterator[dict[str, int]]:
    """Count the validations of a post and the serialisations to JSON by Pydantic."""
    counted = {"validated": 0, "serialised": 0}

    def count(_frame: object, event: str, function: Any) -> None:
        owner = getattr(function, "__self__", None)
        to_json = event == "c_call" and function.__name__ == "to_json"
        if to_json and isinstance(owner, SchemaSerializer):
            counted["serialised"] += 1
        if event == "c_call" and isinstance(owner, SchemaValidator) and owner.title == "Post":
            counted["validated"] += 1

    before = sys.getprofile()
    sys.setprofile(count)
    try:
        yield counted
    finally:
        sys.setprofile(before)


@pytest.mark.parametrize("method", ["POST", "PATCH", "GET"])
async def test_post_is_validated_and_serialised_once(
    client: Client, make: PostFactory, method: str
) -> None:
    author = await make.user()
    post = await make.post(author)
    url = "/v1/posts" if method == "POST" else f"/v1/posts/{post.id}"
    content = None if method == "GET" else {"title": "T", "body": "B"}
    headers = NO_STORE | make.headers(author)
    # The first request makes Pydantic build its serialisers.
    await client.request(method, url, json=content, headers=headers)
    with counting() as counted:
        response = await client.request(method, url, json=content, headers=headers)
    assert response.is_success
    assert counted == {"validated": 1, "serialised": 1}


async def test_second_serialisation_would_be_counted(client: Client, make: PostFactory) -> None:
    await make.posts(2)
    with counting() as counted:
        await client.get("/v1/users/1", headers=NO_STORE)
    assert counted["serialised"] == 1


async def test_etag_is_computed_from_the_bytes_that_are_sent(
    client: Client, make: PostFactory
) -> None:
    author = await make.user()
    new = {"title": "Übung", "body": "\N{PILE OF POO}"}
    created = await client.post("/v1/posts", json=new, headers=make.headers(author))
    url = created.headers["location"]
    edited = await client.patch(url, json={"body": "B"}, headers=make.headers(author))
    read = await client.get(url)
    for response, version in ((created, 1), (edited, 2), (read, 2)):
        assert response.headers["etag"] == entity_tag(response.content, version)
        assert response.headers["content-type"] == "application/json"
    assert json.loads(read.content) == (await client.get("/v1/posts")).json()["items"][0]
