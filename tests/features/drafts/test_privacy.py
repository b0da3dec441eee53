"""Nobody but its owner learns anything of a draft."""

from collections.abc import Iterator

import httpx2
import pytest

from app.features.drafts.models import Draft
from app.features.users.models import User
from tests.features.drafts.factory import DraftFactory

Client = httpx2.AsyncClient
Headers = dict[str, str]


@pytest.fixture
async def draft(make: DraftFactory, owner: User) -> Draft:
    return await make.draft(owner, title="Secret")


@pytest.fixture
async def stranger(make: DraftFactory) -> Headers:
    return make.headers(await make.user())


def calls(draft_id: int) -> Iterator[tuple[str, str, object]]:
    """Yield the method, the path and the body of each call of one draft."""
    yield "GET", f"/v1/drafts/{draft_id}", None
    yield "PATCH", f"/v1/drafts/{draft_id}", {"title": "Mine"}
    yield "DELETE", f"/v1/drafts/{draft_id}", None
    yield "POST", f"/v1/drafts/{draft_id}/publish", None


@pytest.mark.parametrize("condition", [{}, {"If-Match": "*"}, {"If-None-Match": "*"}])
async def test_draft_of_another_user_looks_like_a_missing_one(
    client: Client, draft: Draft, headers: Headers, stranger: Headers, condition: Headers
) -> None:
    before = (await client.get(f"/v1/drafts/{draft.id}", headers=headers)).content
    for theirs, missing in zip(calls(draft.id), calls(draft.id + 1), strict=True):
        problems = []
        for method, path, body in (theirs, missing):
            response = await client.request(
                method, path, json=body, headers=stranger | condition | {"X-Request-ID": "the-same"}
            )
            assert (response.status_code, response.json()["code"]) == (404, "not_found")
            problems.append({**response.json(), "instance": None})
        assert problems[0] == problems[1]
    assert (await client.get(f"/v1/drafts/{draft.id}", headers=headers)).content == before


async def test_every_call_needs_a_token(client: Client, draft: Draft) -> None:
    lists = [("GET", "/v1/drafts", None), ("POST", "/v1/drafts", {"title": "T", "body": "B"})]
    for method, path, body in (*calls(draft.id), *lists):
        response = await client.request(method, path, json=body)
        assert (response.status_code, response.json()["code"]) == (401, "unauthenticated")
        assert response.headers["www-authenticate"] == "Bearer"


@pytest.mark.parametrize("query", ["", "?status=draft"])
async def test_list_shows_nothing_of_others(
    client: Client, draft: Draft, stranger: Headers, query: str
) -> None:
    response = await client.get(f"/v1/drafts{query}", headers=stranger)
    assert response.json() == {"items": [], "next": None, "prev": None}


async def test_cursor_is_bound_to_the_owner(
    client: Client, make: DraftFactory, owner: User, headers: Headers, stranger: Headers
) -> None:
    await make.drafts(2, owner)
    for query in ("limit=1", "limit=1&status=draft"):
        cursor = (await client.get(f"/v1/drafts?{query}", headers=headers)).json()["next"]
        response = await client.get(f"/v1/drafts?{query}&cursor={cursor}", headers=stranger)
        assert (response.status_code, response.json()["code"]) == (422, "invalid_cursor")


async def test_no_answer_is_stored(
    client: Client, draft: Draft, headers: Headers, stranger: Headers
) -> None:
    new = ("POST", "/v1/drafts", {"title": "T", "body": "B"})
    for method, path, body in (("GET", "/v1/drafts", None), new, *calls(draft.id)):
        for caller in (stranger, headers):
            response = await client.request(method, path, json=body, headers=caller)
            assert response.headers.get_list("cache-control") == ["private, no-store"]
            assert "x-cache" not in response.headers
