"""What a client of an export gets: its format, what it may resume from, and its limits."""

from typing import Any

import httpx2
import pytest
from fastapi import FastAPI

from app.infra.database import export
from app.infra.database.export import MAX_BYTES, ExportReader
from tests.exports import CODINGS, body_of, decompressed, lines_of, rows_of
from tests.factory import minute
from tests.sample.factory import NoteFactory

Client = httpx2.AsyncClient
URL = "/test/notes/export"
JSON_LINES, NDJSON, CSV = "application/jsonl", "application/x-ndjson", "text/csv"
TEXTS = ['"', "\\", "\n", "\r\n", "\x01\x02", "😀", "\u2028\x85", ",", '"\n"', "=1+1", "\\.", "é"]


@pytest.fixture
def make(app: FastAPI, clean: None) -> NoteFactory:
    return NoteFactory(app.state.resources)


@pytest.fixture
async def headers(make: NoteFactory) -> dict[str, str]:
    return make.headers(await make.user())


@pytest.fixture
def small_batches(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("FIRST_ROWS", "MAX_ROWS"):
        monkeypatch.setattr(export, name, 3)


async def make_texts(make: NoteFactory) -> None:
    """Make notes whose texts are hard to quote. Some have the same time."""
    author = await make.user(name='"Ann\\')
    for number, text in enumerate(TEXTS):
        await make.note(author, title=text, body=text * 2, created_at=minute(number // 2))


@pytest.mark.parametrize("coding", CODINGS)
@pytest.mark.parametrize("accept", [JSON_LINES, CSV])
async def test_a_client_that_was_cut_off_anywhere_resumes_without_loss(
    client: Client,
    make: NoteFactory,
    headers: dict[str, str],
    small_batches: None,
    accept: str,
    coding: str,
) -> None:
    await make_texts(make)
    headers = {**headers, "Accept": accept, "Accept-Encoding": coding}

    async def raw(**query: str) -> bytes:
        async with client.stream("GET", URL, headers=headers, params=query) as response:
            assert response.status_code == 200
            return b"".join([piece async for piece in response.aiter_raw()])

    def parse(body: bytes, names: list[str] | None = None) -> list[dict[str, Any]]:
        return lines_of(body) if accept == JSON_LINES else rows_of(body, names)

    whole = await raw()
    expected = parse(decompressed(whole, coding))
    assert [row["title"] for row in expected] == TEXTS
    names = list(expected[0])
    rest: dict[str, list[dict[str, Any]]] = {}
    for cut in range(len(whole) + 1):
        received = parse(decompressed(whole[:cut], coding))
        if received:
            cursor = received[-1]["cursor"]
            if cursor not in rest:
                rest[cursor] = parse(decompressed(await raw(cursor=cursor), coding), names)
            received += rest[cursor]
            assert received == expected, cut
    assert len(rest) >= len(TEXTS) / 3  # each batch can be decompressed when it has arrived


@pytest.mark.parametrize(
    ("accept", "expected"),
    [
        (None, JSON_LINES),
        ("*/*", JSON_LINES),
        ("", JSON_LINES),
        ("application/*", JSON_LINES),
        ("text/*", CSV),
        ("TEXT/CSV", CSV),
        ("application/x-ndjson", NDJSON),
        ("text/csv;q=0.5, application/jsonl;q=0.4", CSV),
        ("text/csv;q=0.4, application/jsonl;q=0.5", JSON_LINES),
        ("*/*;q=0.1, text/csv", CSV),
        ("*/*, application/jsonl;q=0, application/x-ndjson;q=0", CSV),
        ("application/jsonl;q=0, application/*", NDJSON),
        ('text/csv;note="a,b;q=0";header=present;q=0.9, application/jsonl;q=0.8', CSV),
        ("application/json, text/plain, */*", JSON_LINES),
        ("application/json", None),
        ("text/csv;q=0", None),
        ("text/html", None),
        ("nonsense", None),
    ],
)
async def test_accept_decides_the_format(
    client: Client, headers: dict[str, str], accept: str | None, expected: str | None
) -> None:
    del client.headers["accept"]
    response = await client.get(
        URL, headers=headers | ({} if accept is None else {"Accept": accept})
    )
    if expected is None:
        assert (response.status_code, response.json()["code"]) == (406, "not_acceptable")
        assert response.headers["content-type"] == "application/problem+json"
    else:
        assert response.status_code == 200
        assert response.headers["content-type"].partition(";")[0] == expected
        assert {"Accept", "Accept-Encoding"} <= set(response.headers["vary"].split(", "))
        extension = "csv" if expected == CSV else "jsonl"
        assert f'filename="notes.{extension}"' in response.headers["content-disposition"]


@pytest.mark.parametrize(
    ("accepted", "expected"),
    [
        (None, "identity"),
        ("", "identity"),
        ("identity", "identity"),
        ("br", "identity"),
        ("gzip", "gzip"),
        ("x-gzip", "gzip"),
        ("gzip, deflate, br, zstd", "zstd"),
        ("gzip;q=1.0, zstd;q=0.5", "gzip"),
        ("GZIP;Q=0.2", "gzip"),
        ("gzip;q=0.5, identity", "identity"),
        ("zstd;q=0, *", "gzip"),
        ("gzip;q=0, zstd;q=0", "identity"),
        ("gzip, *;q=0", "gzip"),
        ("identity;q=0, gzip;q=0, zstd;q=0", None),
        ("br, *;q=0", None),
    ],
)
async def test_accept_encoding_decides_the_coding(
    client: Client, headers: dict[str, str], accepted: str | None, expected: str | None
) -> None:
    del client.headers["accept-encoding"]
    sent = headers | ({} if accepted is None else {"Accept-Encoding": accepted})
    response = await client.get(URL, headers=sent)
    if expected is None:
        assert (response.status_code, response.json()["code"]) == (406, "not_acceptable")
    else:
        assert response.headers.get("content-encoding", "identity") == expected


async def test_an_export_without_rows_is_empty_and_csv_has_its_header(
    client: Client, headers: dict[str, str]
) -> None:
    assert body_of(await client.get(URL, headers=headers)) == b""
    body = body_of(await client.get(URL, headers=headers | {"Accept": CSV}))
    assert (
        body
        == b"id,author_id,author_name,author_avatar_url,parent_id,title,body,created_at,cursor\n"
    )


async def test_a_resumed_csv_has_no_header_and_says_so(
    client: Client, make: NoteFactory, headers: dict[str, str]
) -> None:
    await make.notes(2)
    headers = headers | {"Accept": CSV}
    first = await client.get(URL, headers=headers)
    assert first.headers["content-type"] == "text/csv; charset=utf-8; header=present"
    cursor = rows_of(body_of(first))[0]["cursor"]
    second = await client.get(URL, headers=headers, params={"cursor": cursor})
    assert second.headers["content-type"] == "text/csv; charset=utf-8; header=absent"
    assert body_of(first).endswith(body_of(second))
    assert body_of(second).count(b"\n") == 1


async def test_null_and_an_empty_text_differ(
    client: Client, make: NoteFactory, headers: dict[str, str]
) -> None:
    await make.note(body="")
    [line] = lines_of(body_of(await client.get(URL, headers=headers)))
    assert (line["body"], line["parent_id"], line["author"]["avatar_url"]) == ("", None, None)
    body = body_of(await client.get(URL, headers=headers | {"Accept": CSV}))
    assert b',,,A title,"",' in body


async def test_a_filtered_export_has_cursors_of_its_own(
    client: Client, make: NoteFactory, headers: dict[str, str]
) -> None:
    one, other = await make.user(), await make.user()
    for author in (one, other, one):
        await make.note(author)
    found = lines_of(body_of(await client.get(f"{URL}?author_id={one.id}", headers=headers)))
    assert [line["author"]["id"] for line in found] == [one.id] * 2
    cursor = found[0]["cursor"]
    url = f"{URL}?author_id={one.id}&cursor={cursor}"
    assert lines_of(body_of(await client.get(url, headers=headers))) == found[1:]
    for foreign in (f"{URL}?cursor={cursor}", f"{URL}?author_id={other.id}&cursor={cursor}"):
        response = await client.get(foreign, headers=headers)
        assert (response.status_code, response.json()["code"]) == (422, "invalid_cursor")


@pytest.mark.parametrize("cursor", ["", "x", "A" * 30, "A" * 10_000, "'; DROP TABLE users; --"])
async def test_a_cursor_that_is_not_one_is_refused(
    client: Client, headers: dict[str, str], cursor: str
) -> None:
    response = await client.get(URL, headers=headers, params={"cursor": cursor})
    assert (response.status_code, response.json()["code"]) == (422, "invalid_cursor")


async def test_head_has_the_headers_of_get_and_reads_nothing(
    client: Client, make: NoteFactory, headers: dict[str, str], monkeypatch: pytest.MonkeyPatch
) -> None:
    await make.note()
    got = await client.get(URL, headers=headers)

    async def fail(_reader: ExportReader) -> bytearray:
        raise AssertionError("HEAD reads rows")

    monkeypatch.setattr(ExportReader, "read", fail)
    head = await client.head(URL, headers=headers)
    assert (head.status_code, head.content) == (200, b"")
    names = ("content-type", "content-disposition", "vary", "content-encoding", "cache-control")
    assert all(head.headers.get(name) == got.headers.get(name) for name in names)
    assert "content-length" not in head.headers


@pytest.mark.parametrize("accept", [JSON_LINES, CSV])
async def test_a_batch_is_limited_in_bytes(
    client: Client,
    make: NoteFactory,
    headers: dict[str, str],
    monkeypatch: pytest.MonkeyPatch,
    accept: str,
) -> None:
    author = await make.user()
    bodies = [character * 20_000 for character in "😀é\x01a"] * 20
    for text in bodies:
        await make.note(author, body=text)
    sizes: list[int] = []
    read = ExportReader.read

    async def recorded(reader: ExportReader) -> bytearray | None:
        if (batch := await read(reader)) is not None:
            sizes.append(len(batch))
        return batch

    monkeypatch.setattr(ExportReader, "read", recorded)
    body = body_of(await client.get(URL, headers=headers | {"Accept": accept}))
    found = lines_of(body) if accept == JSON_LINES else rows_of(body)
    assert [line["body"] for line in found] == bodies
    assert len(sizes) > 1
    # A control character is one byte in the table, and six in JSON.
    assert max(sizes) <= 6 * (MAX_BYTES + 80_000)
