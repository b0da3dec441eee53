"""`GET /v1/posts/export` sends the posts as the API shows them, and nothing is lost or repeated."""

import httpx2
import pytest
from hypothesis import example, given

from tests.exports import CODINGS, body_of, lines_of, rows_of
from tests.features.posts.factory import PostFactory
from tests.texts import BOUNDS, texts

Client = httpx2.AsyncClient
URL = "/v1/posts/export"
CSV = {"Accept": "text/csv"}


@pytest.fixture
async def headers(make: PostFactory) -> dict[str, str]:
    return make.headers(await make.user())


async def test_a_line_is_the_post_of_the_api_and_its_cursor(
    client: Client, make: PostFactory, headers: dict[str, str]
) -> None:
    author = await make.user(
        name='Ann "the\\pen" O\'Neill', avatar_url="https://example.com/a.webp"
    )
    posts = [*await make.posts(3, author), await make.post()]
    exported = lines_of(body_of(await client.get(URL, headers=headers)))
    assert [list(line)[-1] for line in exported] == ["cursor"] * 4
    for line in exported:
        del line["cursor"]
    expected = [(await client.get(f"/v1/posts/{post.id}")).json() for post in posts]
    assert exported == expected


@pytest.mark.slow
@BOUNDS
@given(title=texts(200), text=texts(20_000))
@example(
    title=" \tA title\n",
    text='\r\n A "body"\\n \x01\x02\x1c\x7f\x85\u2028\u2029😀\ufeff,;\t\\.\n\\.\n',
)
@example(title="\\.", text="=1+1")
@example(title='"', text="\x02")
async def test_a_post_is_exported_as_it_is(
    client: Client, headers: dict[str, str], title: str, text: str
) -> None:
    sent = {"title": title, "body": text}
    (await client.post("/v1/posts", json=sent, headers=headers)).raise_for_status()
    for coding in CODINGS:
        accepted = {**headers, "Accept-Encoding": coding}
        response = await client.get(URL, headers=accepted)
        assert response.headers.get("content-encoding", "identity") == coding
        body = body_of(response)
        (*_, line) = lines_of(body)
        (*_, row) = rows_of(body_of(await client.get(URL, headers=accepted | CSV)))
        assert {name: line[name] for name in sent} == sent
        assert {name: row[name] for name in sent} == sent
        assert line["cursor"] == row["cursor"]
        # A client that splits lines as Python does gets the same lines.
        assert len(body.decode().splitlines()) == len(lines_of(body))
