"""The routes of comments."""

import asyncio

import httpx2
import pytest

from tests.features.comments.factory import CommentFactory

Client = httpx2.AsyncClient


async def count(client: Client, post_id: int) -> int:
    """Return `comment_count` of the post."""
    number: int = (await client.get(f"/v1/posts/{post_id}")).json()["comment_count"]
    return number


async def test_new_comment_is_returned_and_counted(client: Client, make: CommentFactory) -> None:
    post = await make.post()
    user = await make.user(name="Ann")
    response = await client.post(
        f"/v1/posts/{post.id}/comments", json={"body": "Yes"}, headers=make.headers(user)
    )
    assert response.status_code == 201
    comment = response.json()
    assert (comment["post_id"], comment["body"]) == (post.id, "Yes")
    assert comment["author"] == {"id": user.id, "name": "Ann", "avatar_url": None}
    listed = (await client.get(f"/v1/posts/{post.id}/comments")).json()
    assert listed == {"items": [comment], "next": None, "prev": None}
    assert await count(client, post.id) == 1


async def test_comment_does_not_count_as_an_edit_of_the_post(
    client: Client, make: CommentFactory
) -> None:
    post = await make.post()
    before = (await client.get(f"/v1/posts/{post.id}")).json()
    headers = make.headers(await make.user())
    await client.post(f"/v1/posts/{post.id}/comments", json={"body": "Yes"}, headers=headers)
    after = (await client.get(f"/v1/posts/{post.id}")).json()
    assert after == {**before, "comment_count": 1}


async def test_concurrent_comments_are_all_counted(client: Client, make: CommentFactory) -> None:
    post = await make.post()
    user = await make.user()
    headers = make.headers(user)
    url = f"/v1/posts/{post.id}/comments"
    created = await asyncio.gather(
        *(client.post(url, json={"body": str(i)}, headers=headers) for i in range(20))
    )
    assert {response.status_code for response in created} == {201}
    ids = [response.json()["id"] for response in created]
    deleted = await asyncio.gather(
        *(client.delete(f"/v1/comments/{i}", headers=headers) for i in ids[:8] * 2)
    )
    assert sorted(response.status_code for response in deleted) == [204] * 8 + [404] * 8
    assert await count(client, post.id) == 12
    assert len((await client.get(f"{url}?limit=100")).json()["items"]) == 12


async def test_comments_are_listed_oldest_first_in_both_directions(
    client: Client, make: CommentFactory
) -> None:
    post = await make.post()
    comments = await make.comments(5, post)
    await make.comment()
    url = f"/v1/posts/{post.id}/comments?limit=2"
    first = (await client.get(url)).json()
    second = (await client.get(f"{url}&cursor={first['next']}")).json()
    third = (await client.get(f"{url}&cursor={second['next']}")).json()
    seen = [item["id"] for page in (first, second, third) for item in page["items"]]
    ordered = sorted(comments, key=lambda comment: (comment.created_at, comment.id))
    assert seen == [comment.id for comment in ordered]
    assert third["next"] is None
    back = (await client.get(f"{url}&cursor={third['prev']}")).json()
    assert back["items"] == second["items"]


async def test_invalid_cursor_is_refused(client: Client, make: CommentFactory) -> None:
    post = await make.post()
    response = await client.get(f"/v1/posts/{post.id}/comments?cursor=nonsense")
    assert response.status_code == 422
    assert response.json()["code"] == "invalid_cursor"


async def test_cursor_of_comments_is_refused_by_the_list_of_posts(
    client: Client, make: CommentFactory
) -> None:
    post = await make.post()
    await make.comments(3, post)
    of_comments = (await client.get(f"/v1/posts/{post.id}/comments?limit=1")).json()["next"]
    response = await client.get(f"/v1/posts?cursor={of_comments}")
    assert (response.status_code, response.json()["code"]) == (422, "invalid_cursor")


async def test_post_without_comments_has_an_empty_list(
    client: Client, make: CommentFactory
) -> None:
    post = await make.post()
    response = await client.get(f"/v1/posts/{post.id}/comments")
    assert response.json() == {"items": [], "next": None, "prev": None}


async def test_comments_of_a_missing_post_are_404(client: Client, make: CommentFactory) -> None:
    headers = make.headers(await make.user())
    assert (await client.get("/v1/posts/1/comments")).status_code == 404
    response = await client.post("/v1/posts/1/comments", json={"body": "?"}, headers=headers)
    assert response.status_code == 404


async def test_comments_are_deleted_with_their_post(client: Client, make: CommentFactory) -> None:
    author = await make.user()
    post = await make.post(author)
    comment = await make.comment(post)
    headers = make.headers(author)
    assert (await client.delete(f"/v1/posts/{post.id}", headers=headers)).status_code == 204
    gone = await client.delete(f"/v1/comments/{comment.id}", headers=headers)
    assert gone.status_code == 404


async def test_comments_of_a_deleted_account_stay_anonymously(
    client: Client, make: CommentFactory
) -> None:
    user = await make.user(name="Ann")
    comment = await make.comment(author=user)
    await client.delete("/v1/users/me", headers=make.headers(user))
    nobody = {"id": user.id, "name": "Deleted user", "avatar_url": None}
    comments = (await client.get(f"/v1/posts/{comment.post_id}/comments")).json()["items"]
    assert [(item["id"], item["author"]) for item in comments] == [(comment.id, nobody)]


async def test_only_the_author_can_delete_a_comment(client: Client, make: CommentFactory) -> None:
    author = await make.user()
    post = await make.post()
    comment = await make.comment(post, author)
    url = f"/v1/comments/{comment.id}"
    assert (await client.delete(url)).status_code == 401
    stranger = await client.delete(url, headers=make.headers(await make.user()))
    assert stranger.status_code == 403
    assert await count(client, post.id) == 1
    assert (await client.delete(url, headers=make.headers(author))).status_code == 204
    assert await count(client, post.id) == 0
    assert (await client.delete(url, headers=make.headers(author))).status_code == 404


@pytest.mark.parametrize("body", [{}, {"body": ""}, {"body": "x" * 5001}, {"body": "x", "id": 1}])
async def test_invalid_comment_is_refused(
    client: Client, make: CommentFactory, body: object
) -> None:
    post = await make.post()
    headers = make.headers(await make.user())
    response = await client.post(f"/v1/posts/{post.id}/comments", json=body, headers=headers)
    assert response.status_code == 422
    assert await count(client, post.id) == 0


@pytest.mark.parametrize("number", [1, 3, 30])
async def test_page_with_authors_takes_one_statement(
    client: Client, make: CommentFactory, statements: list[str], number: int
) -> None:
    post = await make.post()
    for _ in range(number):
        await make.comment(post)
    statements.clear()
    await client.get(f"/v1/posts/{post.id}/comments?limit=100")
    assert len(statements) == 1, statements


@pytest.mark.slow
async def test_post_and_its_comments_can_be_deleted_concurrently(
    client: Client, make: CommentFactory, caplog: pytest.LogCaptureFixture
) -> None:
    user = await make.user()
    headers = make.headers(user)
    for _ in range(10):
        post = await make.post(user)
        comments = [await make.comment(post, user) for _ in range(3)]
        urls = [f"/v1/comments/{comment.id}" for comment in comments] + [f"/v1/posts/{post.id}"]
        responses = await asyncio.gather(*(client.delete(url, headers=headers) for url in urls))
        assert {response.status_code for response in responses} <= {204, 404}
        assert (await client.get(f"/v1/posts/{post.id}")).status_code == 404
    assert not caplog.records  # no deadlock, not even one that was retried


async def test_comments_appear_in_the_order_of_the_list(
    client: Client, make: CommentFactory
) -> None:
    post = await make.post()
    headers = make.headers(await make.user())
    url = f"/v1/posts/{post.id}/comments"
    await asyncio.gather(
        *(client.post(url, json={"body": "x"}, headers=headers) for _ in range(30))
    )
    listed = [item["id"] for item in (await client.get(f"{url}?limit=100")).json()["items"]]
    assert listed == sorted(listed)
