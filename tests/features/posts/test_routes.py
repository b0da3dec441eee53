"""The routes of `/v1/posts`."""

import asyncio
from datetime import datetime
from itertools import chain

import httpx2
import pytest

from tests.factory import MORNING
from tests.features.posts.factory import PostFactory

Client = httpx2.AsyncClient


async def walk(client: Client, url: str, *, relation: str = "next") -> list[list[int]]:
    """Return the ids on each page, following the cursors from `url` to the end."""
    pages = []
    separator = "&" if "?" in url else "?"
    page = (await client.get(url)).json()
    while True:
        pages.append([item["id"] for item in page["items"]])
        if page[relation] is None:
            return pages
        page = (await client.get(f"{url}{separator}cursor={page[relation]}")).json()


async def test_created_post_is_returned(client: Client, make: PostFactory) -> None:
    author = await make.user(name="Ann")
    response = await client.post(
        "/v1/posts", json={"title": "T", "body": "B"}, headers=make.headers(author)
    )
    assert response.status_code == 201
    post = response.json()
    assert response.headers["location"] == f"/v1/posts/{post['id']}"
    assert post["author"] == {"id": author.id, "name": "Ann", "avatar_url": None}
    assert (post["title"], post["body"]) == ("T", "B")
    assert (post["comment_count"], post["version"]) == (0, 1)
    assert datetime.fromisoformat(post["created_at"]).utcoffset() is not None
    read = await client.get(response.headers["location"])
    assert read.json() == post
    assert read.headers["etag"] == response.headers["etag"]
    assert read.headers["etag"].startswith('"1-')


async def test_creating_a_post_needs_a_token(client: Client) -> None:
    response = await client.post("/v1/posts", json={"title": "T", "body": "B"})
    assert response.status_code == 401
    assert response.headers["www-authenticate"] == "Bearer"
    assert response.json()["code"] == "unauthenticated"


@pytest.mark.parametrize(
    "body",
    [
        {"title": "", "body": "B"},
        {"title": "T" * 201, "body": "B"},
        {"title": "T", "body": ""},
        {"title": "T", "body": "B" * 20_001},
        {"title": "T"},
        {"title": "T", "body": "B", "author_id": 2},
        {"title": 1, "body": "B"},
        {"title": "NUL \0", "body": "B"},
        [],
    ],
)
async def test_invalid_post_is_refused(client: Client, make: PostFactory, body: object) -> None:
    headers = make.headers(await make.user())
    response = await client.post("/v1/posts", json=body, headers=headers)
    assert response.status_code == 422
    assert response.json()["code"] == "invalid_request"
    assert response.json()["errors"]  # refused by validation, not by the database


async def test_limits_count_characters_and_text_is_returned_unchanged(
    client: Client, make: PostFactory
) -> None:
    headers = make.headers(await make.user())
    sent = {"title": "𝄞" * 200, "body": " \r\n\t<b>é\u2028" + "本" * 19_990}
    created = await client.post("/v1/posts", json=sent, headers=headers)
    assert created.status_code == 201
    read = (await client.get(created.headers["location"])).json()
    assert {"title": read["title"], "body": read["body"]} == sent


async def test_edit_increases_the_version_and_updates_the_time(
    client: Client, make: PostFactory
) -> None:
    author = await make.user()
    post = await make.post(author, created_at=MORNING, updated_at=MORNING)
    response = await client.patch(
        f"/v1/posts/{post.id}", json={"title": "New"}, headers=make.headers(author)
    )
    assert response.status_code == 200
    edited = response.json()
    assert (edited["title"], edited["body"], edited["version"]) == ("New", "A body", 2)
    assert datetime.fromisoformat(edited["updated_at"]) > MORNING
    assert datetime.fromisoformat(edited["created_at"]) == MORNING
    assert response.headers["etag"].startswith('"2-')
    assert (await client.get(f"/v1/posts/{post.id}")).json() == edited


async def test_edit_without_changes_does_not_count(client: Client, make: PostFactory) -> None:
    author = await make.user()
    post = await make.post(author)
    for body in ({}, {"title": "A title"}):
        response = await client.patch(
            f"/v1/posts/{post.id}", json=body, headers=make.headers(author)
        )
        assert response.status_code == 200
        assert response.json()["version"] == 1


@pytest.mark.parametrize("body", [{"title": None}, {"version": 7}, {"comment_count": 7}])
async def test_edit_cannot_set_read_only_fields(
    client: Client, make: PostFactory, body: object
) -> None:
    author = await make.user()
    post = await make.post(author)
    response = await client.patch(f"/v1/posts/{post.id}", json=body, headers=make.headers(author))
    assert response.status_code == 422


@pytest.mark.parametrize("method", ["PATCH", "DELETE"])
async def test_another_user_cannot_change_a_post(
    client: Client, make: PostFactory, method: str
) -> None:
    post = await make.post()
    stranger = make.headers(await make.user())
    body = {"title": "Mine"} if method == "PATCH" else None
    response = await client.request(method, f"/v1/posts/{post.id}", json=body, headers=stranger)
    assert response.status_code == 403
    assert response.json()["code"] == "forbidden"
    assert (await client.get(f"/v1/posts/{post.id}")).json()["title"] == "A title"


async def test_deleted_post_is_404(client: Client, make: PostFactory) -> None:
    author = await make.user()
    post = await make.post(author)
    response = await client.delete(f"/v1/posts/{post.id}", headers=make.headers(author))
    assert (response.status_code, response.content) == (204, b"")
    assert (await client.get(f"/v1/posts/{post.id}")).status_code == 404


async def test_posts_of_a_deleted_account_stay_anonymously(
    client: Client, make: PostFactory
) -> None:
    user = await make.user(name="Ann")
    post = await make.post(user)
    await client.delete("/v1/users/me", headers=make.headers(user))
    nobody = {"id": user.id, "name": "Deleted user", "avatar_url": None}
    assert (await client.get(f"/v1/posts/{post.id}")).json()["author"] == nobody


@pytest.mark.parametrize("post_id", ["1", str(2**63 - 1)])
async def test_missing_post_is_404(client: Client, post_id: str) -> None:
    response = await client.get(f"/v1/posts/{post_id}")
    assert response.status_code == 404
    assert response.json()["code"] == "not_found"


@pytest.mark.parametrize(
    "post_id", ["0", "-1", "1_0", "01", "1.0", "+1", "a", str(2**63), "9" * 5000]
)
async def test_invalid_id_is_422(client: Client, post_id: str) -> None:
    assert (await client.get(f"/v1/posts/{post_id}")).status_code == 422


async def test_list_shows_every_post_once_newest_first(client: Client, make: PostFactory) -> None:
    newest_first = [post.id for post in reversed(await make.posts(10))]
    pages = await walk(client, "/v1/posts?limit=3")
    assert sorted(newest_first) == sorted(chain(*pages))
    assert [len(page) for page in pages] == [3, 3, 3, 1]
    listed = (await client.get("/v1/posts?limit=100")).json()["items"]
    assert [*chain(*pages)] == [post["id"] for post in listed]
    keys = [(post["created_at"], post["id"]) for post in listed]
    assert keys == sorted(keys, reverse=True)


async def test_previous_cursors_lead_back_through_the_same_pages(
    client: Client, make: PostFactory
) -> None:
    await make.posts(9)
    first = (await client.get("/v1/posts?limit=4")).json()
    second = (await client.get(f"/v1/posts?limit=4&cursor={first['next']}")).json()
    third = (await client.get(f"/v1/posts?limit=4&cursor={second['next']}")).json()
    assert first["prev"] is None
    assert third["next"] is None
    back = (await client.get(f"/v1/posts?limit=4&cursor={third['prev']}")).json()
    assert back["items"] == second["items"]
    start = (await client.get(f"/v1/posts?limit=4&cursor={back['prev']}")).json()
    assert start["items"] == first["items"]
    assert start["prev"] is None
    again = (await client.get(f"/v1/posts?limit=4&cursor={start['next']}")).json()
    assert again["items"] == second["items"]


async def test_pages_stay_correct_while_posts_are_added_and_deleted(
    client: Client, make: PostFactory
) -> None:
    author = await make.user()
    posts = await make.posts(6, author)
    first = (await client.get("/v1/posts?limit=2")).json()
    await make.post(author)
    last_seen = first["items"][-1]["id"]
    await client.delete(f"/v1/posts/{last_seen}", headers=make.headers(author))
    rest = await client.get(f"/v1/posts?limit=100&cursor={first['next']}")
    seen = {item["id"] for item in first["items"]}
    assert {item["id"] for item in rest.json()["items"]} == {post.id for post in posts} - seen


async def test_empty_page_has_a_cursor_that_leads_back(client: Client, make: PostFactory) -> None:
    author = await make.user()
    posts = await make.posts(4, author)
    first = (await client.get("/v1/posts?limit=2")).json()
    listed = {item["id"] for item in first["items"]}
    for post in posts:
        if post.id not in listed:
            await client.delete(f"/v1/posts/{post.id}", headers=make.headers(author))
    empty = (await client.get(f"/v1/posts?limit=2&cursor={first['next']}")).json()
    assert (empty["items"], empty["next"]) == ([], None)
    back = (await client.get(f"/v1/posts?limit=2&cursor={empty['prev']}")).json()
    assert back["items"] == first["items"]


async def test_link_header_is_relative_and_keeps_the_filter(
    client: Client, make: PostFactory
) -> None:
    author = await make.user()
    await make.posts(3, author)
    url = f"/v1/posts?author_id={author.id}&limit=1"
    first = await client.get(url, headers={"Host": "evil.example"})
    query = f"author_id={author.id}&cursor={first.json()['next']}&limit=1"
    assert first.headers["link"] == f'</v1/posts?{query}>; rel="next"'
    second = await client.get(first.links["next"]["url"])
    assert set(second.links) == {"next", "prev"}
    assert second.json()["items"][0]["author"]["id"] == author.id


async def test_last_page_has_no_link(client: Client, make: PostFactory) -> None:
    await make.post()
    assert "link" not in (await client.get("/v1/posts")).headers


async def test_list_can_be_limited_to_one_author(client: Client, make: PostFactory) -> None:
    author = await make.user()
    own = await make.posts(5, author)
    await make.post()
    pages = await walk(client, f"/v1/posts?author_id={author.id}&limit=2")
    assert sorted(chain(*pages)) == [post.id for post in own]


async def test_list_of_an_unknown_author_is_empty(client: Client, make: PostFactory) -> None:
    author_id = (await make.post()).author_id
    response = await client.get(f"/v1/posts?author_id={author_id + 1}")
    assert response.json() == {"items": [], "next": None, "prev": None}


@pytest.mark.parametrize("limit", ["0", "-1", "101", "9" * 30, "a", "NaN", ""])
async def test_limit_out_of_bounds_is_refused(client: Client, limit: str) -> None:
    response = await client.get(f"/v1/posts?limit={limit}")
    assert response.status_code == 422
    assert response.json()["code"] == "invalid_request"


async def test_cursor_of_another_list_is_refused(client: Client, make: PostFactory) -> None:
    author = await make.user()
    await make.posts(3, author)
    of_all = (await client.get("/v1/posts?limit=1")).json()["next"]
    of_author = (await client.get(f"/v1/posts?limit=1&author_id={author.id}")).json()["next"]
    for url in (
        f"/v1/posts?author_id={author.id}&cursor={of_all}",
        f"/v1/posts?author_id={author.id + 1}&cursor={of_author}",
        f"/v1/posts?cursor={of_author}",
        f"/v1/posts?cursor={of_all[:-1]}",
        f"/v1/posts?cursor={of_all}A",
        f"/v1/posts?cursor={of_all}%3D",
        f"/v1/posts?cursor={of_all[:-1]}{chr(ord(of_all[-1]) + 1)}",  # decodes to the same bytes
        "/v1/posts?cursor=" + "A" * 10_000,
        "/v1/posts?cursor=" + "é" * len(of_all),
        "/v1/posts?cursor=",
    ):
        response = await client.get(url)
        assert response.status_code == 422, url
        assert response.json()["code"] == "invalid_cursor"


@pytest.mark.slow
@pytest.mark.parametrize("number", [1, 5, 40])
@pytest.mark.parametrize("query", ["", "&author_id=1"])
async def test_page_with_authors_takes_one_statement(
    client: Client, make: PostFactory, statements: list[str], number: int, query: str
) -> None:
    for _ in range(number):
        await make.post()
    statements.clear()
    await client.get(f"/v1/posts?limit=100{query}")
    assert len(statements) == 1, statements


async def test_post_with_its_author_takes_one_statement(
    client: Client, make: PostFactory, statements: list[str]
) -> None:
    post = await make.post()
    statements.clear()
    await client.get(f"/v1/posts/{post.id}")
    assert len(statements) == 1, statements


async def test_concurrent_edits_are_all_counted(client: Client, make: PostFactory) -> None:
    author = await make.user()
    post = await make.post(author)
    await asyncio.gather(
        *(
            client.patch(
                f"/v1/posts/{post.id}", json={"title": f"T{i}"}, headers=make.headers(author)
            )
            for i in range(10)
        )
    )
    assert (await client.get(f"/v1/posts/{post.id}")).json()["version"] == 11
