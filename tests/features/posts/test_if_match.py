"""If-Match and If-None-Match prevent lost updates of posts."""

import asyncio
from collections import Counter
from collections.abc import AsyncIterator

import httpx2
import pytest
from fastapi import FastAPI

from app.features.posts.models import Post
from app.features.users.models import User
from tests.application import client_of
from tests.cached_app import GZIP, LONG, NO_STORE
from tests.features.posts.factory import PostFactory

Client = httpx2.AsyncClient


@pytest.fixture
async def client(service: FastAPI, clean: None) -> AsyncIterator[Client]:
    async with client_of(service) as client:
        del client.headers["accept-encoding"]
        yield client


@pytest.fixture
def make(service: FastAPI, clean: None) -> PostFactory:
    return PostFactory(service.state.resources)


@pytest.fixture
async def author(make: PostFactory) -> User:
    return await make.user()


@pytest.fixture
async def post(make: PostFactory, author: User) -> Post:
    return await make.post(author, body=LONG)


@pytest.fixture
def url(post: Post) -> str:
    return f"/v1/posts/{post.id}"


@pytest.fixture
def headers(make: PostFactory, author: User) -> dict[str, str]:
    return make.headers(author)


async def etag(client: Client, url: str) -> str:
    value: str = (await client.get(url)).raise_for_status().headers["etag"]
    return value


async def edit(client: Client, url: str, title: str, headers: dict[str, str]) -> httpx2.Response:
    return await client.patch(url, json={"title": title}, headers=headers)


@pytest.mark.slow
async def test_one_of_many_edits_of_the_same_version_succeeds(
    client: Client, url: str, headers: dict[str, str]
) -> None:
    headers = headers | {"If-Match": await etag(client, url)}
    # Open every connection of the pool first, so that all edits start at the same time.
    await asyncio.gather(*(client.get(url, headers=NO_STORE) for _ in range(20)))
    answers = await asyncio.gather(
        *(edit(client, url, f"Title {number}", headers) for number in range(100))
    )
    assert Counter(answer.status_code for answer in answers) == {200: 1, 412: 99}
    assert {answer.json()["code"] for answer in answers if answer.is_error} == {"stale"}
    [kept] = [answer.json() for answer in answers if answer.is_success]
    assert kept["version"] == 2
    assert (await client.get(url)).json() == kept


async def test_one_of_many_edits_and_deletions_succeeds(
    client: Client, url: str, headers: dict[str, str]
) -> None:
    headers = headers | {"If-Match": await etag(client, url)}
    edits = [edit(client, url, f"Title {number}", headers) for number in range(10)]
    deletions = [client.delete(url, headers=headers) for _ in range(10)]
    answers = await asyncio.gather(*edits, *deletions)
    assert len([answer for answer in answers if answer.is_success]) == 1
    assert {answer.status_code for answer in answers if answer.is_error} <= {412, 404}


async def test_edit_succeeds_after_reading_again(
    client: Client, url: str, headers: dict[str, str]
) -> None:
    for number in range(3):
        seen = await etag(client, url)
        answer = await edit(client, url, f"Title {number}", headers | {"If-Match": seen})
        assert answer.status_code == 200


async def test_etag_of_an_edit_can_be_used_for_the_next_edit(
    client: Client, url: str, headers: dict[str, str]
) -> None:
    seen = await etag(client, url)
    for number in range(3):
        answer = await edit(client, url, f"Title {number}", headers | {"If-Match": seen})
        assert answer.status_code == 200
        seen = answer.headers["etag"]
        assert seen == await etag(client, url)


async def test_etag_of_a_new_post_is_the_same_as_that_of_a_read(
    client: Client, headers: dict[str, str]
) -> None:
    new = {"title": "T", "body": "B"}
    created = await client.post("/v1/posts", json=new, headers=headers)
    url, seen = created.headers["location"], created.headers["etag"]
    assert seen == await etag(client, url)
    assert (await client.get(url, headers=NO_STORE)).headers["etag"] == seen
    assert (await client.get(url, headers={"If-None-Match": seen})).status_code == 304
    assert (await edit(client, url, "New", headers | {"If-Match": seen})).status_code == 200


async def test_edit_without_changes_keeps_the_etag(
    client: Client, url: str, headers: dict[str, str]
) -> None:
    seen = await etag(client, url)
    for body in ({}, {"title": "A title"}):
        answer = await client.patch(url, json=body, headers=headers | {"If-Match": seen})
        assert answer.status_code == 200
        assert answer.headers["etag"] == seen
    assert await etag(client, url) == seen


async def test_stale_edit_changes_nothing(
    client: Client, url: str, headers: dict[str, str]
) -> None:
    seen = await etag(client, url)
    await edit(client, url, "Mine", headers)
    answer = await edit(client, url, "Yours", headers | {"If-Match": seen})
    assert answer.status_code == 412
    assert answer.json()["code"] == "stale"
    assert answer.headers["content-type"] == "application/problem+json"
    assert (await client.get(url)).json()["title"] == "Mine"


async def test_stale_deletion_deletes_nothing(
    client: Client, url: str, headers: dict[str, str]
) -> None:
    seen = await etag(client, url)
    await edit(client, url, "New", headers)
    answer = await client.delete(url, headers=headers | {"If-Match": seen})
    assert (answer.status_code, answer.json()["code"]) == (412, "stale")
    assert (await client.get(url)).status_code == 200
    fresh = headers | {"If-Match": await etag(client, url)}
    assert (await client.delete(url, headers=fresh)).status_code == 204
    assert (await client.get(url)).status_code == 404


ANOTHER = "0123456789abcdef"  # the digest from before a comment was added
MATCHES = [
    *("{etag}", "*", " * ", '"other", {etag}', '"9-x",{etag}', "{gzip}", f'"1-{ANOTHER}"'),
    *(",{etag}", " , ,{etag} , ", "\t{etag}\t", 'W/"1-{digest}", {etag}', '"a,b" , {etag}'),
]
DIFFERS = [
    *("W/{etag}", "", '"other"', '"1"', '"11-{digest}"', '"2-{digest}"', "{bare}", '"*"', 'W/"*"'),
    *('"1-"', '"1-x"', '"1-anything"', '"1-{digest}0"', '"1-{digest}-br"', '"01-{digest}"'),
    *(
        '"a, b", {etag}',
        '"1 -{digest}"',
        '" 1-{digest}"',
        '"+1-{digest}"',
        "{etag}x",
        "{etag} {etag}",
        "*, {etag}",
    ),
    *("*, *", "w/{etag}", "W/ {etag}", '"1-{digest}', "'1-{digest}'", "x, {etag}", "{etag}; a=b"),
    *('"1-{upper}"', '"-{digest}"', f'"{"1" * 5_000}-{ANOTHER}"'),
]


@pytest.mark.parametrize("form", MATCHES)
async def test_condition_with_the_current_etag_matches(
    client: Client, url: str, headers: dict[str, str], form: str
) -> None:
    seen = await etag(client, url)
    condition = form.format(etag=seen, gzip=seen[:-1] + '-gzip"', digest=seen[3:-1])
    headers = headers | {"If-Match": condition}
    assert (await edit(client, url, "A title", headers)).status_code == 200
    assert (await client.delete(url, headers=headers)).status_code == 204


@pytest.mark.slow
@pytest.mark.parametrize("form", DIFFERS)
async def test_condition_with_another_etag_does_not_match(
    client: Client, url: str, headers: dict[str, str], form: str
) -> None:
    seen = await etag(client, url)
    digest = seen[3:-1]
    condition = form.format(etag=seen, bare=seen[1:-1], digest=digest, upper=f"{digest[:-1]}F")
    headers = headers | {"If-Match": condition}
    assert (await edit(client, url, "New", headers)).status_code == 412
    assert (await client.delete(url, headers=headers)).status_code == 412
    assert await etag(client, url) == seen


async def test_etag_of_the_compressed_form_matches(
    client: Client, url: str, headers: dict[str, str]
) -> None:
    got = await client.get(url, headers=GZIP)
    assert got.headers["content-encoding"] == "gzip"
    headers = headers | {"If-Match": got.headers["etag"]}
    assert (await edit(client, url, "New", headers)).status_code == 200
    assert (await edit(client, url, "Newer", headers)).status_code == 412


async def test_without_a_condition_the_last_edit_wins(
    client: Client, url: str, headers: dict[str, str]
) -> None:
    for number in range(3):
        assert (await edit(client, url, f"Title {number}", headers)).status_code == 200
    assert (await client.get(url)).json()["title"] == "Title 2"
    assert (await client.delete(url, headers=headers)).status_code == 204


async def test_renamed_author_changes_the_etag_but_not_the_version(
    client: Client, url: str, headers: dict[str, str]
) -> None:
    seen = await etag(client, url)
    await client.patch("/v1/users/me", json={"name": "Renamed"}, headers=headers)
    assert await etag(client, url) != seen
    assert (await edit(client, url, "New", headers | {"If-Match": seen})).status_code == 200


@pytest.mark.parametrize("condition", ["*", '"1-x"', '"9-x"'])
async def test_condition_on_a_missing_post_is_404(
    client: Client, headers: dict[str, str], condition: str
) -> None:
    headers = headers | {"If-Match": condition}
    assert (await edit(client, "/v1/posts/999", "New", headers)).status_code == 404
    assert (await client.delete("/v1/posts/999", headers=headers)).status_code == 404


async def test_condition_reveals_nothing_to_another_user(
    client: Client, make: PostFactory, url: str
) -> None:
    stranger = make.headers(await make.user())
    for condition in (await etag(client, url), '"9-x"', "*"):
        for name in ("If-Match", "If-None-Match"):
            answer = await edit(client, url, "Mine", stranger | {name: condition})
            assert answer.status_code == 403
    nobody = await edit(client, url, "Mine", {"If-Match": '"9-x"'})
    assert nobody.status_code == 401


async def test_several_if_match_headers_are_one_list(
    client: Client, url: str, headers: dict[str, str]
) -> None:
    seen = await etag(client, url)
    for lines, status in (
        (['"9-x"', seen], 200),
        ([seen, '"9-x"'], 200),
        (['"8-x"', '"9-x"'], 412),
        ([seen, "garbage"], 412),
    ):
        sent = [*headers.items(), *(("If-Match", line) for line in lines)]
        answer = await client.patch(url, json={"title": "A title"}, headers=sent)
        assert answer.status_code == status, lines


NONE_MATCH_HOLDS = ['"other"', '"2-{digest}"', '"1-"', "", ",", 'W/"2-{digest}"', '"*"', '"1-x"']
NONE_MATCH_FAILS = [
    *("*", " * ", "{etag}", "W/{etag}", '"other", {etag}', "{gzip}", "garbage", "*, *", "{etag}x"),
]


@pytest.mark.parametrize("form", NONE_MATCH_FAILS)
async def test_if_none_match_prevents_a_change_of_an_existing_post(
    client: Client, url: str, headers: dict[str, str], form: str
) -> None:
    seen = await etag(client, url)
    headers = headers | {"If-None-Match": form.format(etag=seen, gzip=seen[:-1] + '-gzip"')}
    for answer in (
        await edit(client, url, "New", headers),
        await client.delete(url, headers=headers),
        await edit(client, url, "New", headers | {"If-Match": seen}),
    ):
        assert (answer.status_code, answer.json()["code"]) == (412, "stale")
    assert await etag(client, url) == seen


@pytest.mark.parametrize("form", NONE_MATCH_HOLDS)
async def test_if_none_match_with_another_etag_allows_the_change(
    client: Client, url: str, headers: dict[str, str], form: str
) -> None:
    digest = (await etag(client, url))[3:-1]
    headers = headers | {"If-None-Match": form.format(digest=digest)}
    assert (await edit(client, url, "A title", headers)).status_code == 200
    assert (await client.delete(url, headers=headers)).status_code == 204


async def test_several_if_none_match_headers_are_one_list(
    client: Client, url: str, headers: dict[str, str]
) -> None:
    lines = [("If-None-Match", '"9-x"'), ("If-None-Match", await etag(client, url))]
    sent = [*headers.items(), *lines]
    assert (await client.patch(url, json={"title": "New"}, headers=sent)).status_code == 412


async def test_if_none_match_on_a_missing_post_is_404(
    client: Client, headers: dict[str, str]
) -> None:
    headers = headers | {"If-None-Match": "*"}
    assert (await edit(client, "/v1/posts/999", "New", headers)).status_code == 404
    assert (await client.delete("/v1/posts/999", headers=headers)).status_code == 404
