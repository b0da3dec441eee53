"""Cached pages of lists.

A page is dropped when one of its rows changes, when the row after it changes, and when a new row
may belong to it. A page is settled when no new row can belong to it any more.
"""

from collections.abc import AsyncIterator
from datetime import datetime, timedelta, tzinfo
from typing import Self

import httpx2
import pytest
from fastapi import FastAPI
from sqlalchemy import text

from app.features.users.models import User
from app.infra import dependencies
from app.infra.database import pagination
from coherent_cache.entry import Entry
from tests.application import client_of
from tests.cached_app import NO_CACHE, cache_of, settled
from tests.sample.factory import NoteFactory
from tests.sample.notes import Note

Client = httpx2.AsyncClient

LONGEST = timedelta(hours=1)  # so long that the time which a test takes does not matter
NOW = text("SELECT now()")


@pytest.fixture
async def client(service: FastAPI, clean: None) -> AsyncIterator[Client]:
    await settled(service)
    async with client_of(service) as client:
        yield client


@pytest.fixture
def make(service: FastAPI, clean: None) -> NoteFactory:
    return NoteFactory(service.state.resources)


@pytest.fixture(autouse=True)
def longest_transaction(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(dependencies, "COMMIT_MARGIN", LONGEST)


@pytest.fixture
async def author(make: NoteFactory) -> User:
    return await make.user()


async def aged(make: NoteFactory, author: User, *hours: float) -> list[Note]:
    """Make notes of these ages, by the clock of the database."""
    async with make.resources.database.read() as session:
        now: datetime = (await session.execute(NOW)).scalar_one()
    return [
        await make.note(author, created_at=now - timedelta(hours=age), title=f"{age} h")
        for age in hours
    ]


async def tags(service: FastAPI, url: str) -> set[str]:
    """Return the tags of a cached answer."""
    path, _, query = url.partition("?")
    key = f"{path}?{'&'.join(sorted(query.split('&')))}"
    entry = await cache_of(service).store.look_up(key)
    assert isinstance(entry, Entry)
    return set(entry.tags)


async def pages(
    client: Client, url: str, relation: str = "next", cursor: str | None = None
) -> list[str]:
    """Load all pages of a list from a cursor on, and return their addresses."""
    urls = [url if cursor is None else f"{url}&cursor={cursor}"]
    while (cursor := (await client.get(urls[-1])).json()[relation]) is not None:
        urls.append(f"{url}&cursor={cursor}")
    return urls


def filtered(author: User | None) -> tuple[str, str]:
    """Return the beginning of the address of a list, and the tag for new rows in it."""
    if author is None:
        return "/test/notes?", "notes:new"
    return f"/test/notes?author_id={author.id}&", f"notes:new:{author.id}"


@pytest.fixture(params=["everybody", "author"])
def of(request: pytest.FixtureRequest, author: User) -> User | None:
    return author if request.param == "author" else None


async def test_a_page_is_settled_when_its_cursor_is_older_than_any_transaction(
    client: Client, service: FastAPI, make: NoteFactory, author: User, of: User | None
) -> None:
    await aged(make, author, 0, 0.5, 2, 3, 4)
    url, new = filtered(of)
    urls = await pages(client, f"{url}limit=1")
    # The first page has no cursor. Those of the others are at the rows of 0, 0.5, 2 and 3 hours.
    assert [new in await tags(service, url) for url in urls] == [True, True, True, False, False]


async def test_the_first_page_is_never_settled(
    client: Client, service: FastAPI, make: NoteFactory, author: User, of: User | None
) -> None:
    url, new = filtered(of)
    await aged(make, author, 7, 8, 9)
    for limit in (1, 3, 100):
        await client.get(f"{url}limit={limit}")
        assert new in await tags(service, f"{url}limit={limit}")


async def test_an_empty_page_is_never_settled(
    client: Client, service: FastAPI, make: NoteFactory, author: User, of: User | None
) -> None:
    notes = await aged(make, author, 7, 8)
    url, new = filtered(of)
    *_, last = await pages(client, f"{url}limit=1")
    await client.delete(f"/test/notes/{notes[1].id}", headers=make.headers(author))
    assert (await client.get(last)).json()["items"] == []
    assert new in await tags(service, last)


async def test_a_backward_page_is_settled_when_a_row_follows_that_is_old_enough(
    client: Client, service: FastAPI, make: NoteFactory, author: User, of: User | None
) -> None:
    await aged(make, author, 0.5, 2, 3, 4, 5)
    url, new = filtered(of)
    *_, last = await pages(client, f"{url}limit=1")
    prev = (await client.get(last)).json()["prev"]
    backward = await pages(client, f"{url}limit=1", "prev", prev)
    # These show 4, 3, 2 and 0.5 hours. The row of 0.5 hours follows the one of 2 hours, and
    # nothing follows the row of 0.5 hours.
    assert [new in await tags(service, url) for url in backward] == [False, False, True, True]
    both = f"{url}limit=2&cursor={prev}"
    assert len((await client.get(both)).json()["items"]) == 2
    assert new not in await tags(service, both)
    four = f"{url}limit=4&cursor={prev}"
    assert len((await client.get(four)).json()["items"]) == 4
    assert new in await tags(service, four)


async def test_a_backward_page_with_nothing_behind_it_is_never_settled(
    client: Client, service: FastAPI, make: NoteFactory, author: User, of: User | None
) -> None:
    await aged(make, author, 2, 3, 4)
    url, new = filtered(of)
    *_, last = await pages(client, f"{url}limit=1")
    prev = (await client.get(last)).json()["prev"]
    backward = await pages(client, f"{url}limit=1", "prev", prev)
    assert [new in await tags(service, url) for url in backward] == [False, True]
    await make.note(author)
    assert (await client.get(backward[1])).json()["prev"] is not None


async def test_age_of_a_page_is_measured_by_the_clock_of_the_database(
    client: Client,
    service: FastAPI,
    make: NoteFactory,
    author: User,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    class InAYear(datetime):
        @classmethod
        def now(cls, tz: tzinfo | None = None) -> Self:
            return super().now(tz) + timedelta(days=365)

    monkeypatch.setattr(pagination, "datetime", InAYear)
    await aged(make, author, 0, 0.5, 2)
    urls = await pages(client, "/test/notes?limit=1")
    assert [("notes:new" in await tags(service, url)) for url in urls] == [True, True, True]


async def test_row_that_is_committed_late_appears_on_its_page(
    client: Client, service: FastAPI, make: NoteFactory, author: User, of: User | None
) -> None:
    """The time of a row is the start of its transaction. Others see the row after the commit."""
    await aged(make, author, 0, 0.5, 2, 3)
    url, _ = filtered(of)
    urls = await pages(client, f"{url}limit=1")
    prev = (await client.get(urls[-1])).json()["prev"]
    backward = await pages(client, f"{url}limit=1", "prev", prev)
    await aged(make, author, 0.25)
    await settled(service)
    for page in (urls[1], backward[-1]):
        shown = (await client.get(page)).json()["items"]
        assert [item["title"] for item in shown] == ["0.25 h"]
    everything = [item["title"] for item in (await client.get(f"{url}limit=9")).json()["items"]]
    assert everything == ["0 h", "0.25 h", "0.5 h", "2 h", "3 h"]
    # The settled page is still right, and still cached.
    assert (await client.get(urls[3])).headers["x-cache"] == "HIT-L1"
    assert (await client.get(urls[3], headers=NO_CACHE)).headers["x-cache"] == "HIT"


async def test_page_has_the_tag_of_the_row_after_it(
    client: Client, service: FastAPI, make: NoteFactory, author: User, of: User | None
) -> None:
    notes = await aged(make, author, 4, 5, 6, 7)
    url, _ = filtered(of)
    forward = await pages(client, f"{url}limit=1")
    for number, page in enumerate(forward):
        shown = {f"note:{note.id}" for note in notes[number : number + 2]}
        assert {tag for tag in await tags(service, page) if tag.startswith("note:")} == shown
    prev = (await client.get(forward[-1])).json()["prev"]
    backward = f"{url}limit=1&cursor={prev}"
    assert [item["id"] for item in (await client.get(backward)).json()["items"]] == [notes[2].id]
    peeked = {f"note:{notes[2].id}", f"note:{notes[1].id}"}
    assert {tag for tag in await tags(service, backward) if tag.startswith("note:")} == peeked


async def test_deleting_the_last_row_removes_the_link_to_its_page(
    client: Client, make: NoteFactory, author: User, of: User | None
) -> None:
    notes = await aged(make, author, 4, 5, 6)
    url, _ = filtered(of)
    before_last = (await pages(client, f"{url}limit=1"))[1]
    assert (await client.get(before_last)).json()["next"] is not None
    await client.delete(f"/test/notes/{notes[2].id}", headers=make.headers(author))
    for headers in ({}, NO_CACHE):
        page = await client.get(before_last, headers=headers)
        assert [item["id"] for item in page.json()["items"]] == [notes[1].id]
        assert page.json()["next"] is None
        assert 'rel="next"' not in page.headers["link"]


async def test_deleting_the_first_row_removes_the_link_to_its_page(
    client: Client, make: NoteFactory, author: User, of: User | None
) -> None:
    notes = await aged(make, author, 4, 5, 6)
    url, _ = filtered(of)
    last = (await pages(client, f"{url}limit=1"))[-1]
    backward = f"{url}limit=1&cursor={(await client.get(last)).json()['prev']}"
    assert (await client.get(backward)).json()["prev"] is not None
    await client.delete(f"/test/notes/{notes[0].id}", headers=make.headers(author))
    for headers in ({}, NO_CACHE):
        assert (await client.get(backward, headers=headers)).json()["prev"] is None


async def test_note_of_another_author_does_not_drop_the_pages_of_an_author(
    client: Client, service: FastAPI, make: NoteFactory, author: User
) -> None:
    other = await make.user()
    await aged(make, author, 0, 0.5, 2)
    await aged(make, other, 0)
    mine = await pages(client, f"/test/notes?author_id={author.id}&limit=1")
    await settled(service)
    await client.post("/test/notes", json={"title": "T", "body": "B"}, headers=make.headers(other))
    await settled(service)
    for url in mine:
        assert (await client.get(url, headers=NO_CACHE)).headers["x-cache"] == "HIT"
    theirs = (await client.get(f"/test/notes?author_id={other.id}")).json()
    assert [item["title"] for item in theirs["items"]] == ["T", "0 h"]
