"""The routes of `/v1/drafts`."""

import asyncio
from datetime import date, datetime
from itertools import chain

import httpx2
import pytest

from app.features.drafts.models import DraftStatus
from app.features.users.models import User
from tests.factory import MORNING
from tests.features.drafts.factory import DraftFactory

Client = httpx2.AsyncClient
Headers = dict[str, str]

NEW = {"title": "T", "body": "B"}


async def walk(client: Client, url: str, headers: Headers) -> list[list[int]]:
    """Return the ids on each page, following the links from `url` to the end."""
    pages = []
    while url:
        page = await client.get(url, headers=headers)
        pages.append([item["id"] for item in page.json()["items"]])
        url = page.links["next"]["url"] if "next" in page.links else ""
    return pages


async def test_created_draft_is_returned(client: Client, headers: Headers) -> None:
    response = await client.post("/v1/drafts", json=NEW, headers=headers)
    assert response.status_code == 201
    draft = response.json()
    assert response.headers["location"] == f"/v1/drafts/{draft['id']}"
    assert draft.items() >= {**NEW, "status": "draft", "publish_on": None, "version": 1}.items()
    assert datetime.fromisoformat(draft["created_at"]).utcoffset() is not None
    read = await client.get(response.headers["location"], headers=headers)
    assert read.json() == draft
    assert read.headers["etag"] == response.headers["etag"]
    assert read.headers["etag"].startswith('"1-')


@pytest.mark.parametrize("day", ["2030-01-31", "2024-02-29", "0001-01-01", "9999-12-31"])
async def test_draft_with_a_date_is_scheduled(client: Client, headers: Headers, day: str) -> None:
    created = await client.post("/v1/drafts", json={**NEW, "publish_on": day}, headers=headers)
    assert created.status_code == 201
    assert (created.json()["status"], created.json()["publish_on"]) == ("scheduled", day)
    read = await client.get(created.headers["location"], headers=headers)
    assert read.json() == created.json()


@pytest.mark.parametrize(
    "body",
    [
        {"title": "", "body": "B"},
        {"title": "T" * 201, "body": "B"},
        {"title": "T", "body": ""},
        {"title": "T", "body": "B" * 20_001},
        {"title": "T"},
        {**NEW, "status": "scheduled"},
        {**NEW, "owner_id": 2},
        {**NEW, "publish_on": "2023-02-29"},
        {**NEW, "publish_on": "2030-01-31T00:00:00Z"},
        {**NEW, "publish_on": 1},
        {**NEW, "publish_on": ""},
        [],
    ],
)
async def test_invalid_draft_is_refused(client: Client, headers: Headers, body: object) -> None:
    response = await client.post("/v1/drafts", json=body, headers=headers)
    assert response.status_code == 422
    assert response.json()["code"] == "invalid_request"
    assert response.json()["errors"]  # refused by validation, not by the database


async def test_limits_count_characters_and_text_is_returned_unchanged(
    client: Client, headers: Headers
) -> None:
    sent = {"title": "𝄞" * 200, "body": " \r\n\t<b>é\u2028" + "本" * 19_990}
    created = await client.post("/v1/drafts", json=sent, headers=headers)
    assert created.status_code == 201
    read = await client.get(created.headers["location"], headers=headers)
    assert {name: read.json()[name] for name in sent} == sent


async def test_edit_increases_the_version_and_updates_the_time(
    client: Client, make: DraftFactory, owner: User, headers: Headers
) -> None:
    draft = await make.draft(owner, created_at=MORNING, updated_at=MORNING)
    url = f"/v1/drafts/{draft.id}"
    response = await client.patch(url, json={"title": "New"}, headers=headers)
    assert response.status_code == 200
    edited = response.json()
    assert (edited["title"], edited["body"], edited["version"]) == ("New", "A body", 2)
    assert datetime.fromisoformat(edited["updated_at"]) > MORNING
    assert datetime.fromisoformat(edited["created_at"]) == MORNING
    assert response.headers["etag"].startswith('"2-')
    assert (await client.get(url, headers=headers)).json() == edited


async def test_edit_without_changes_does_not_count(
    client: Client, make: DraftFactory, owner: User, headers: Headers
) -> None:
    draft = await make.draft(owner, publish_on=date(2030, 1, 31), status=DraftStatus.SCHEDULED)
    for body in ({}, {"title": draft.title}, {"publish_on": "2030-01-31"}):
        response = await client.patch(f"/v1/drafts/{draft.id}", json=body, headers=headers)
        assert response.status_code == 200
        assert response.json()["version"] == 1


async def test_date_can_be_set_and_removed(
    client: Client, make: DraftFactory, owner: User, headers: Headers
) -> None:
    draft = await make.draft(owner)
    for body, publish_on, status in (
        ({"publish_on": "2030-01-31"}, "2030-01-31", "scheduled"),
        ({"title": "New"}, "2030-01-31", "scheduled"),
        ({"publish_on": None}, None, "draft"),
    ):
        response = await client.patch(f"/v1/drafts/{draft.id}", json=body, headers=headers)
        assert response.status_code == 200
        assert (response.json()["publish_on"], response.json()["status"]) == (publish_on, status)


@pytest.mark.parametrize(
    "body", [{"title": None}, {"body": None}, {"version": 7}, {"status": "draft"}, {"id": 7}]
)
async def test_edit_cannot_set_read_only_fields(
    client: Client, make: DraftFactory, owner: User, headers: Headers, body: object
) -> None:
    draft = await make.draft(owner)
    response = await client.patch(f"/v1/drafts/{draft.id}", json=body, headers=headers)
    assert response.status_code == 422


async def test_deleted_draft_is_404(
    client: Client, make: DraftFactory, owner: User, headers: Headers
) -> None:
    url = f"/v1/drafts/{(await make.draft(owner)).id}"
    response = await client.delete(url, headers=headers)
    assert (response.status_code, response.content) == (204, b"")
    missing = await client.get(url, headers=headers)
    assert (missing.status_code, missing.json()["code"]) == (404, "not_found")


async def test_title_is_unique_for_each_owner(
    client: Client, make: DraftFactory, owner: User, headers: Headers
) -> None:
    await make.draft(owner, title="Mine")
    other = await make.draft(owner, title="Other")
    for response in (
        await client.post("/v1/drafts", json={**NEW, "title": "Mine"}, headers=headers),
        await client.patch(f"/v1/drafts/{other.id}", json={"title": "Mine"}, headers=headers),
    ):
        assert (response.status_code, response.json()["code"]) == (409, "title_taken")
    unchanged = (await client.get(f"/v1/drafts/{other.id}", headers=headers)).json()
    assert (unchanged["title"], unchanged["version"]) == ("Other", 1)
    stranger = make.headers(await make.user())
    response = await client.post("/v1/drafts", json={**NEW, "title": "Mine"}, headers=stranger)
    assert response.status_code == 201


async def test_title_is_taken_once_in_a_race(
    client: Client, make: DraftFactory, owner: User, headers: Headers
) -> None:
    drafts = [await make.draft(owner) for _ in range(5)]
    change = {"title": "Wanted"}
    edits = [client.patch(f"/v1/drafts/{d.id}", json=change, headers=headers) for d in drafts]
    new = [client.post("/v1/drafts", json={**NEW, **change}, headers=headers) for _ in range(5)]
    responses = await asyncio.gather(*edits, *new)
    assert len([response for response in responses if response.is_success]) == 1
    refused = [response.json() for response in responses if response.is_error]
    assert {(problem["status"], problem["code"]) for problem in refused} == {(409, "title_taken")}


async def test_list_shows_every_draft_once_newest_first(
    client: Client, make: DraftFactory, owner: User, headers: Headers
) -> None:
    drafts = await make.drafts(10, owner)
    newest_first = sorted(drafts, key=lambda draft: (draft.created_at, draft.id), reverse=True)
    ids = [draft.id for draft in newest_first]
    pages = await walk(client, "/v1/drafts?limit=4", headers)
    assert pages == [ids[:4], ids[4:8], ids[8:]]


async def test_list_can_be_limited_to_one_status(
    client: Client, make: DraftFactory, owner: User, headers: Headers
) -> None:
    drafts = await make.drafts(5, owner)
    scheduled = await make.drafts(5, owner, status=DraftStatus.SCHEDULED)
    for status, expected in (("draft", drafts), ("scheduled", scheduled)):
        pages = await walk(client, f"/v1/drafts?status={status}&limit=2", headers)
        assert [len(page) for page in pages] == [2, 2, 1]
        assert sorted(chain(*pages)) == [draft.id for draft in expected]


@pytest.mark.parametrize("status", ["", "DRAFT", "unknown", "0"])
async def test_unknown_status_is_refused(client: Client, headers: Headers, status: str) -> None:
    response = await client.get(f"/v1/drafts?status={status}", headers=headers)
    assert response.status_code == 422
    assert response.json()["code"] == "invalid_request"


async def test_previous_cursor_leads_back_to_the_same_page(
    client: Client, make: DraftFactory, owner: User, headers: Headers
) -> None:
    await make.drafts(5, owner)
    first = await client.get("/v1/drafts?status=draft&limit=2", headers=headers)
    second = await client.get(first.links["next"]["url"], headers=headers)
    back = await client.get(second.links["prev"]["url"], headers=headers)
    assert back.json() == first.json()


async def test_cursor_is_bound_to_the_status(
    client: Client, make: DraftFactory, owner: User, headers: Headers
) -> None:
    await make.drafts(3, owner)
    of_all = (await client.get("/v1/drafts?limit=1", headers=headers)).json()["next"]
    of_drafts = (await client.get("/v1/drafts?limit=1&status=draft", headers=headers)).json()[
        "next"
    ]
    for url in (
        f"/v1/drafts?status=draft&cursor={of_all}",
        f"/v1/drafts?status=scheduled&cursor={of_drafts}",
        f"/v1/drafts?cursor={of_drafts}",
    ):
        response = await client.get(url, headers=headers)
        assert (response.status_code, response.json()["code"]) == (422, "invalid_cursor"), url


@pytest.mark.parametrize("query", ["", "&status=draft"])
async def test_page_takes_one_statement(
    client: Client,
    make: DraftFactory,
    owner: User,
    headers: Headers,
    statements: list[str],
    query: str,
) -> None:
    await make.drafts(5, owner)
    await client.get("/v1/drafts", headers=headers)  # the caller is cached from now on
    statements.clear()
    response = await client.get(f"/v1/drafts?limit=100{query}", headers=headers)
    assert len(response.json()["items"]) == 5
    assert len(statements) == 1, statements


async def test_each_call_takes_few_statements(
    client: Client, make: DraftFactory, owner: User, headers: Headers, statements: list[str]
) -> None:
    # A write that invalidates cached responses sends one more.
    url = f"/v1/drafts/{(await make.draft(owner)).id}"
    await client.get(url, headers=headers)  # the caller is cached from now on
    for method, path, body, number in (
        ("GET", url, None, 1),
        ("POST", "/v1/drafts", NEW, 2),  # it locks the account, and inserts
        ("PATCH", url, {"title": "New"}, 2),  # it locks the draft, and updates
        ("DELETE", url, None, 2),
    ):
        statements.clear()
        response = await client.request(method, path, json=body, headers=headers)
        assert response.is_success
        assert len(statements) == number, statements


async def test_concurrent_edits_are_all_counted(
    client: Client, make: DraftFactory, owner: User, headers: Headers
) -> None:
    url = f"/v1/drafts/{(await make.draft(owner)).id}"
    await asyncio.gather(
        *(client.patch(url, json={"title": f"T{i}"}, headers=headers) for i in range(10))
    )
    assert (await client.get(url, headers=headers)).json()["version"] == 11
