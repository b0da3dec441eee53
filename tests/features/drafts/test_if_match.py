"""If-Match prevents lost updates of drafts. `tests/contract/test_conditions.py` has more."""

import asyncio
from collections import Counter

import httpx2
import pytest

from app.features.users.models import User
from tests.features.drafts.factory import DraftFactory

Client = httpx2.AsyncClient
Headers = dict[str, str]


@pytest.fixture
async def url(make: DraftFactory, owner: User) -> str:
    return f"/v1/drafts/{(await make.draft(owner)).id}"


@pytest.fixture
async def seen(client: Client, url: str, headers: Headers) -> Headers:
    """The headers of a request that is conditional on the draft as it is now."""
    response = await client.get(url, headers=headers)
    return headers | {"If-Match": response.headers["etag"]}


async def test_one_of_many_edits_of_the_same_version_succeeds(
    client: Client, url: str, seen: Headers
) -> None:
    answers = await asyncio.gather(
        *(client.patch(url, json={"title": f"Title {i}"}, headers=seen) for i in range(20))
    )
    assert Counter(answer.status_code for answer in answers) == {200: 1, 412: 19}
    assert {answer.json()["code"] for answer in answers if answer.is_error} == {"stale"}
    [kept] = [answer.json() for answer in answers if answer.is_success]
    assert kept["version"] == 2
    assert (await client.get(url, headers=seen)).json() == kept


async def test_etag_of_an_edit_can_be_used_for_the_next_edit(
    client: Client, url: str, seen: Headers
) -> None:
    for number in range(3):
        answer = await client.patch(url, json={"title": f"Title {number}"}, headers=seen)
        assert answer.status_code == 200
        seen["If-Match"] = answer.headers["etag"]


async def test_stale_deletion_deletes_nothing(
    client: Client, url: str, headers: Headers, seen: Headers
) -> None:
    await client.patch(url, json={"body": "New"}, headers=headers)
    answer = await client.delete(url, headers=seen)
    assert (answer.status_code, answer.json()["code"]) == (412, "stale")
    fresh = {"If-Match": (await client.get(url, headers=headers)).headers["etag"]}
    assert (await client.delete(url, headers=headers | fresh)).status_code == 204
