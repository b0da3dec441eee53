"""A draft is published once, as a post."""

import asyncio
from collections import Counter

import httpx2
import pytest

from app.features.drafts.models import Draft
from app.features.users.models import User
from tests.features.drafts.factory import DraftFactory

Client = httpx2.AsyncClient
Headers = dict[str, str]


@pytest.fixture
async def draft(make: DraftFactory, owner: User) -> Draft:
    return await make.draft(owner, title="T", body="B")


@pytest.fixture
def url(draft: Draft) -> str:
    return f"/v1/drafts/{draft.id}"


async def publish(client: Client, url: str, headers: Headers) -> httpx2.Response:
    return await client.post(f"{url}/publish", headers=headers)


async def test_published_draft_becomes_a_post(
    client: Client, owner: User, url: str, headers: Headers
) -> None:
    response = await publish(client, url, headers)
    assert response.status_code == 201
    post = response.json()
    assert (post["title"], post["body"], post["author"]["id"]) == ("T", "B", owner.id)
    assert response.headers["location"] == f"/v1/posts/{post['id']}"
    read = await client.get(response.headers["location"])
    assert read.json() == post
    assert read.headers["etag"] == response.headers["etag"]
    draft = (await client.get(url, headers=headers)).json()
    assert (draft["status"], draft["post_id"], draft["version"]) == ("published", post["id"], 2)
    listed = (await client.get("/v1/drafts?status=published", headers=headers)).json()
    assert listed["items"] == [draft]


async def test_cached_list_shows_the_post_at_once(
    client: Client, url: str, headers: Headers
) -> None:
    assert (await client.get("/v1/posts")).json()["items"] == []
    post = (await publish(client, url, headers)).json()
    assert (await client.get("/v1/posts")).json()["items"] == [post]


async def test_one_of_many_attempts_to_publish_succeeds(
    client: Client, url: str, headers: Headers
) -> None:
    answers = await asyncio.gather(*(publish(client, url, headers) for _ in range(10)))
    assert Counter(answer.status_code for answer in answers) == {201: 1, 409: 9}
    codes = {answer.json()["code"] for answer in answers if answer.is_error}
    assert codes == {"already_published"}
    assert len((await client.get("/v1/posts")).json()["items"]) == 1


async def test_edit_and_publication_at_the_same_time_agree(
    client: Client, url: str, headers: Headers
) -> None:
    edit = client.patch(url, json={"title": "New"}, headers=headers)
    edited, published = await asyncio.gather(edit, publish(client, url, headers))
    assert published.status_code == 201
    draft = (await client.get(url, headers=headers)).json()
    assert draft["status"] == "published"
    assert draft["title"] == published.json()["title"]
    assert (edited.status_code, draft["title"]) in ((200, "New"), (409, "T"))


async def test_published_draft_cannot_be_changed_but_deleted(
    client: Client, url: str, headers: Headers
) -> None:
    post = (await publish(client, url, headers)).json()
    edited = await client.patch(url, json={"title": "New"}, headers=headers)
    assert (edited.status_code, edited.json()["code"]) == (409, "already_published")
    assert (await client.delete(url, headers=headers)).status_code == 204
    assert (await client.get(f"/v1/posts/{post['id']}")).json() == post


async def test_draft_stays_published_when_its_post_is_deleted(
    client: Client, url: str, headers: Headers
) -> None:
    post = (await publish(client, url, headers)).json()
    await client.delete(f"/v1/posts/{post['id']}", headers=headers)
    draft = (await client.get(url, headers=headers)).json()
    assert (draft["status"], draft["post_id"]) == ("published", None)
    assert (await publish(client, url, headers)).status_code == 409


async def test_scheduled_draft_can_be_published_by_hand(
    client: Client, url: str, headers: Headers
) -> None:
    await client.patch(url, json={"publish_on": "2030-01-31"}, headers=headers)
    assert (await publish(client, url, headers)).status_code == 201
    draft = (await client.get(url, headers=headers)).json()
    assert (draft["status"], draft["publish_on"]) == ("published", "2030-01-31")


async def test_longest_draft_can_be_published(
    client: Client, make: DraftFactory, owner: User, headers: Headers
) -> None:
    draft = await make.draft(owner, title="𝄞" * 200, body="本" * 20_000)
    assert (await publish(client, f"/v1/drafts/{draft.id}", headers)).status_code == 201


async def test_publication_takes_three_statements(
    client: Client, url: str, headers: Headers, statements: list[str]
) -> None:
    await client.get(url, headers=headers)  # the caller is cached from now on
    statements.clear()
    assert (await publish(client, url, headers)).status_code == 201
    # It locks the draft, inserts the post, and updates the draft. The outbox of the cache is extra.
    assert len([sql for sql in statements if "cache_outbox" not in sql]) == 3, statements


@pytest.mark.parametrize("body", [{"post_id": 1}, {"status": "published"}])
async def test_edit_cannot_publish(
    client: Client, url: str, headers: Headers, body: dict[str, object]
) -> None:
    assert (await client.patch(url, json=body, headers=headers)).status_code == 422
