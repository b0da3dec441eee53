"""A user uploads a picture, and everybody sees it."""

import asyncio
import hashlib

import httpx2
import pytest
from PIL import Image

from app.features.users.models import User
from tests.features.avatars.factory import AvatarFactory
from tests.features.avatars.pictures import colours, noise, opened, quarters, written

Client = httpx2.AsyncClient
Headers = dict[str, str]

ME = "/v1/users/me/avatar"
YEAR = "public, max-age=31536000, immutable"
NO_AVATAR = None


async def upload(client: Client, headers: Headers, content: bytes) -> str:
    response = await client.put(ME, content=content, headers=headers)
    assert response.status_code == 200, response.text
    url: str = response.json()["url"]
    return url


@pytest.mark.parametrize("file_format", ["JPEG", "PNG", "WEBP", "AVIF", "GIF"])
async def test_picture_is_made_small_and_shown(
    client: Client, owner: User, headers: Headers, file_format: str
) -> None:
    url = await upload(client, headers, written(quarters(600, 400), file_format))
    shown = await client.get(url)
    assert (shown.status_code, shown.headers["content-type"]) == (200, "image/webp")
    assert shown.headers["cache-control"] == YEAR
    assert shown.headers["x-content-type-options"] == "nosniff"
    assert url == f"/v1/avatars/{hashlib.sha256(shown.content).hexdigest()}.webp"
    picture = opened(shown.content)
    assert (picture.format, picture.size) == ("WEBP", (256, 256))
    assert colours(picture) == ("red", "lime", "blue", "white")
    assert (await client.get("/v1/users/me", headers=headers)).json()["avatar_url"] == url
    assert (await client.get(f"/v1/users/{owner.id}")).json()["avatar_url"] == url


async def test_new_picture_is_shown_at_once(client: Client, owner: User, headers: Headers) -> None:
    """The tests of the contract check all cached pages that show a user."""

    async def shown() -> str | None:
        url: str | None = (await client.get(f"/v1/users/{owner.id}")).json()["avatar_url"]
        return url

    assert await shown() is NO_AVATAR  # the answers are cached from now on
    for colour in ("red", "blue"):
        url = await upload(client, headers, written(Image.new("RGB", (9, 9), colour)))
        assert await shown() == url
    for _ in range(2):
        assert (await client.delete(ME, headers=headers)).status_code == 204
        assert await shown() is NO_AVATAR


async def test_conditions_are_about_the_avatar_that_there_is(
    client: Client, headers: Headers
) -> None:
    if_there_is_one, if_there_is_none = {"If-Match": "*"}, {"If-None-Match": "*"}

    async def put(condition: Headers) -> int:
        sent = {**headers, **condition}
        return (await client.put(ME, content=written(quarters()), headers=sent)).status_code

    async def delete(condition: Headers) -> int:
        return (await client.delete(ME, headers={**headers, **condition})).status_code

    assert await put(if_there_is_one) == 412
    assert await delete(if_there_is_one) == 412
    assert await delete(if_there_is_none) == 204
    assert sorted(await asyncio.gather(*[put(if_there_is_none) for _ in range(4)])) == [
        *[200, 412, 412, 412]
    ]
    assert await put(if_there_is_one) == 200
    assert await delete(if_there_is_none) == 412
    assert await delete(if_there_is_one) == 204


async def test_same_picture_has_the_same_address(
    client: Client, make: AvatarFactory, headers: Headers
) -> None:
    content = written(quarters())
    first = await upload(client, headers, content)
    other = make.headers(await make.user())
    assert await upload(client, other, content) == first
    assert await upload(client, other, content) == first


async def test_uploads_of_one_user_take_turns(client: Client, headers: Headers) -> None:
    files = [written(Image.new("RGB", (9, 9), colour)) for colour in ("red", "blue", "lime")]
    urls = await asyncio.gather(*(upload(client, headers, file) for file in files * 3))
    assert (await client.get("/v1/users/me", headers=headers)).json()["avatar_url"] in urls
    for url in set(urls):
        assert (await client.get(url)).status_code == 200


@pytest.mark.parametrize(
    ("content", "status", "code"),
    [
        (b"", 422, "invalid_request"),
        (b"<svg xmlns='http://www.w3.org/2000/svg'/>", 415, "unsupported_media_type"),
        (b"<?xml version='1.0'?><svg/>", 415, "unsupported_media_type"),
        (b"%PDF-1.7", 415, "unsupported_media_type"),
        (b"BM" + bytes(100), 415, "unsupported_media_type"),
        (b"II*\0" + bytes(100), 415, "unsupported_media_type"),
        (b"\xff\xd8\xff" + bytes(100), 422, "invalid_image"),
        (b"\x89PNG\r\n\x1a\n", 422, "invalid_image"),
        (b"RIFF\0\0\0\0WEBP" + bytes(30), 422, "invalid_image"),
        (b"\0\0\0\x1cftypavif" + bytes(30), 422, "invalid_image"),
        (b"\0\0\0\x18ftypmif1\0\0\0\0mif1avif" + bytes(30), 422, "invalid_image"),
        (b"\0\0\0\x18ftypmif1\0\0\0\0mif1heic" + bytes(30), 415, "unsupported_media_type"),
        (b"\0\0\0\x18ftypheic\0\0\0\0mif1heic" + bytes(30), 415, "unsupported_media_type"),
        (b"GIF89a", 422, "invalid_image"),
    ],
)
async def test_what_is_no_picture_is_refused(
    client: Client, headers: Headers, content: bytes, status: int, code: str
) -> None:
    sent = {**headers, "Content-Type": "image/png"}
    response = await client.put(ME, content=content, headers=sent)
    assert (response.status_code, response.json()["code"]) == (status, code)
    me = await client.get("/v1/users/me", headers=headers)
    assert me.json()["avatar_url"] is NO_AVATAR


@pytest.mark.parametrize(
    "content_type",
    ["text/html", "application/json", "application/x-www-form-urlencoded", "multipart/form-data"],
)
async def test_content_decides_and_not_the_content_type(
    client: Client, headers: Headers, content_type: str
) -> None:
    """`curl --data-binary` says that a file is a form."""
    file = written(noise(), "JPEG", quality=95)
    assert len(file) > 1_000_000
    assert file.count(b"&") > 1_000
    assert await upload(client, {**headers, "Content-Type": content_type}, file)


async def test_file_may_be_larger_than_other_bodies_up_to_a_limit(
    client: Client, headers: Headers
) -> None:
    picture, limit = written(quarters()), 6 * 1024 * 1024
    assert await upload(client, headers, picture.ljust(limit, b"\0"))
    response = await client.put(ME, content=picture.ljust(limit + 1, b"\0"), headers=headers)
    assert (response.status_code, response.json()["code"]) == (413, "too_large")


@pytest.mark.parametrize(
    ("name", "status"), [("0" * 64, 404), ("0" * 63, 422), ("A" * 64, 422), ("..%2fx", 404)]
)
async def test_address_of_no_picture(client: Client, name: str, status: int) -> None:
    response = await client.get(f"/v1/avatars/{name}.webp")
    assert response.status_code == status
