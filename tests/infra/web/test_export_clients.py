"""What an export holds while its client reads slowly, leaves, or comes back, and how it ends."""

import asyncio
import logging
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass, field, replace
from random import Random

import httpx2
import pytest
from fastapi import FastAPI, Response
from sqlalchemy import text
from starlette.types import Message

from app.features.users.models import User
from app.infra.database import export
from app.infra.dependencies import ExportPlace
from app.infra.shutdown import server_shutdown
from app.infra.web import exports
from app.infra.web.server_error import ClientTooSlow
from app.settings import Settings
from tests.application import client_of, running
from tests.exports import CODINGS, connections_in_use, decompressed, lines_of
from tests.sample.factory import NoteFactory
from tests.sample.notes import EXPORTED_NOTES
from tests.served import PATIENCE_SECONDS, served, until

URL, PUBLIC = "/test/notes/export", "/test/public-export"


@pytest.fixture
def make(app: FastAPI, clean: None) -> NoteFactory:
    return NoteFactory(app.state.resources)


@pytest.fixture
def small_batches(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("FIRST_ROWS", "MAX_ROWS"):
        monkeypatch.setattr(export, name, 2)


@pytest.fixture
def impatient(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(exports, "PLACE_SECONDS", 0.05)


@dataclass
class Reader:
    """A client without a server, which reads a message when it is told to."""

    app: FastAPI
    headers: dict[str, str]
    path: str = URL
    body: bytes = b""
    status: int = 0
    is_complete: bool = False
    messages: asyncio.Queue[Message] = field(default_factory=lambda: asyncio.Queue(maxsize=1))
    left: asyncio.Event = field(default_factory=asyncio.Event)
    task: asyncio.Task[None] | None = None

    def start(self) -> None:
        scope = {
            "type": "http",
            "asgi": {"version": "3.0", "spec_version": "2.3"},
            "http_version": "1.1",
            "method": "GET",
            "path": self.path,
            "query_string": b"",
            "headers": [(k.lower().encode(), v.encode()) for k, v in self.headers.items()],
            "client": ("127.0.0.1", 1),
            "server": ("test", 80),
            "scheme": "http",
        }
        self.task = asyncio.create_task(self.app(scope, self._receive, self.messages.put))

    async def read(self) -> None:
        """Read one message."""
        message = await self.messages.get()
        self.status = message.get("status", self.status)
        self.body += message.get("body", b"")
        self.is_complete = message["type"] == "http.response.body" and not message.get("more_body")

    async def _receive(self) -> Message:
        await self.left.wait()
        return {"type": "http.disconnect"}


@asynccontextmanager
async def reading(app: FastAPI, headers: dict[str, str], path: str = URL) -> AsyncIterator[Reader]:
    """Start an export, and read its first two messages: the head, and one batch."""
    reader = Reader(app, headers, path)
    reader.start()
    try:
        async with asyncio.timeout(PATIENCE_SECONDS):
            await reader.read()
            await reader.read()
        yield reader
    finally:
        reader.left.set()
        assert reader.task is not None
        await asyncio.gather(reader.task, return_exceptions=True)


async def holds_nothing(make: NoteFactory) -> None:
    """Wait until the service uses no connection."""
    async with asyncio.timeout(PATIENCE_SECONDS):
        while await connections_in_use(make.resources) != (0, 0):
            await asyncio.sleep(0.01)


async def test_a_slow_reader_holds_no_connection_and_no_snapshot(
    app: FastAPI, make: NoteFactory, small_batches: None
) -> None:
    notes = await make.notes(9)
    async with reading(app, make.headers(await make.user())) as reader:
        await holds_nothing(make)
        assert reader.messages.full()  # the next batch has been read, and waits to be sent
        while not reader.is_complete:
            await reader.read()
        assert [line["id"] for line in lines_of(reader.body)] == [note.id for note in notes]


@pytest.mark.parametrize("coding", CODINGS)
async def test_a_batch_can_be_decompressed_as_soon_as_it_has_arrived(
    app: FastAPI, make: NoteFactory, small_batches: None, coding: str
) -> None:
    await make.notes(9)
    headers = {**make.headers(await make.user()), "Accept-Encoding": coding}
    async with reading(app, headers) as reader:
        assert len(lines_of(decompressed(reader.body, coding))) == 2


async def test_a_place_is_given_back_however_the_export_ends(
    app: FastAPI, make: NoteFactory, small_batches: None, impatient: None
) -> None:
    await make.notes(9)
    headers = make.headers(await make.user())
    async with client_of(app) as client:
        for _ in range(3):
            async with reading(app, headers):
                refused = await client.get(URL, headers=headers)
                assert (refused.status_code, refused.json()["code"]) == (429, "rate_limited")
                assert refused.headers["retry-after"] == "30"
        assert (await client.get(URL, headers=headers)).status_code == 200
        invalid = await client.get(f"{URL}?cursor=x", headers=headers)
        assert invalid.status_code == 422
        assert (await client.get(URL, headers=headers)).status_code == 200


async def test_without_a_token_an_export_counts_for_its_address(
    settings: Settings, make: NoteFactory, small_batches: None, impatient: None
) -> None:
    async def export_notes(place: ExportPlace) -> Response:
        return await place.respond(EXPORTED_NOTES)

    await make.notes(9)
    async with running(settings) as app:
        app.get(PUBLIC)(export_notes)
        elsewhere = httpx2.ASGITransport(app, client=("203.0.113.9", 1))
        async with client_of(app) as client, reading(app, {}, PUBLIC):
            assert (await client.get(PUBLIC)).status_code == 429
            async with httpx2.AsyncClient(transport=elsewhere, base_url="http://test") as other:
                assert (await other.get(PUBLIC)).status_code == 200


async def test_more_exports_than_a_process_may_run_are_refused(
    app: FastAPI, make: NoteFactory, small_batches: None, impatient: None
) -> None:
    await make.notes(9)
    users = [await make.user() for _ in range(3)]
    one, two, three = (make.headers(user) for user in users)
    async with client_of(app) as client, reading(app, one):
        async with reading(app, two):
            refused = await client.get(URL, headers=three)
            assert (refused.status_code, refused.json()["code"]) == (503, "unavailable")
            assert "retry-after" in refused.headers
        assert (await client.get(URL, headers=three)).status_code == 200


async def test_an_export_waits_for_the_place_of_one_that_ends(
    app: FastAPI, make: NoteFactory, small_batches: None, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(exports, "PLACE_SECONDS", PATIENCE_SECONDS)
    await make.notes(9)
    headers = make.headers(await make.user())
    async with client_of(app) as client:
        async with reading(app, headers):
            second = asyncio.create_task(client.get(URL, headers=headers))
            await asyncio.sleep(0.1)
            assert not second.done()
        assert (await second).status_code == 200


def change_limits(app: FastAPI, monkeypatch: pytest.MonkeyPatch, **seconds: float) -> None:
    changed = replace(app.state.exports.limits, **seconds)
    monkeypatch.setattr(app.state.exports, "limits", changed)


async def test_the_settings_of_the_server_limit_its_exports(settings: Settings) -> None:
    values = settings.model_dump()
    values["server"] |= {"write_seconds": 7, "drain_seconds": 2, "graceful_timeout_seconds": 200}
    async with running(Settings.model_validate(values)) as app:
        limits = app.state.exports.limits
        # 5 s of the graceful timeout are for closing everything.
        assert (limits.send_seconds, limits.grace_seconds) == (7, 193)


async def test_a_client_that_does_not_read_the_last_piece_is_cut_off(
    app: FastAPI, make: NoteFactory, monkeypatch: pytest.MonkeyPatch
) -> None:
    change_limits(app, monkeypatch, send_seconds=0.1)
    await make.note()
    reader = Reader(app, make.headers(await make.user()))
    reader.start()
    assert reader.task is not None
    await reader.read()  # the head
    await asyncio.wait([reader.task], timeout=PATIENCE_SECONDS)
    with pytest.raises(ClientTooSlow):
        reader.task.result()
    await reader.read()
    assert (len(lines_of(reader.body)), reader.is_complete) == (1, False)


async def test_a_client_that_never_reads_is_cut_off(
    app: FastAPI,
    make: NoteFactory,
    small_batches: None,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    change_limits(app, monkeypatch, send_seconds=0.1)
    await make.notes(9)
    async with reading(app, make.headers(await make.user())) as reader:
        assert reader.task is not None
        await asyncio.wait([reader.task], timeout=PATIENCE_SECONDS)
        assert not reader.is_complete
        with pytest.raises(ClientTooSlow):
            reader.task.result()


async def test_an_export_that_the_database_fails_is_visibly_incomplete(
    app: FastAPI, make: NoteFactory, small_batches: None, caplog: pytest.LogCaptureFixture
) -> None:
    await make.notes(9)
    async with reading(app, make.headers(await make.user())) as reader:
        await until(reader.messages.full)
        async with make.resources.database.transaction() as session:
            await session.execute(text("ALTER TABLE test_notes RENAME TO lost_notes"))
        try:
            async with asyncio.timeout(PATIENCE_SECONDS):
                assert reader.task is not None
                while not reader.task.done():
                    if reader.messages.full():
                        await reader.read()
                    await asyncio.sleep(0)
        finally:
            async with make.resources.database.transaction() as session:
                await session.execute(text("ALTER TABLE lost_notes RENAME TO test_notes"))
        assert not reader.is_complete
        assert 0 < len(lines_of(reader.body)) < 9
    assert 'cut off: DBAPIError, SQLSTATE 42P01, relation "test_notes"' in caplog.text
    await holds_nothing(make)


async def make_many(make: NoteFactory, number: int) -> None:
    author = await make.user()
    async with make.resources.database.transaction() as session:
        await session.execute(
            text(
                "INSERT INTO test_notes (author_id, title, body, created_at) SELECT :author_id, i, "
                "repeat('long ', 100), now() + i * interval '1 s' FROM generate_series(1, :n) i"
            ),
            {"author_id": author.id, "n": number},
        )


async def test_exports_that_are_aborted_anywhere_leave_no_connection(
    app: FastAPI, settings: Settings, make: NoteFactory
) -> None:
    await make_many(make, 20_000)
    user, random = await make.user(), Random(5)
    async with served(app, settings) as url:
        for _ in range(100):
            await abort(url, make, user, random.randrange(2_000_000))
        async with httpx2.AsyncClient(base_url=url, timeout=PATIENCE_SECONDS) as client:
            whole = await client.get(URL, headers=make.headers(user))
    assert len(lines_of(whole.content)) == 20_000
    await holds_nothing(make)


async def abort(url: str, make: NoteFactory, user: User, after_bytes: int) -> None:
    """Start an export, and close the connection after so many bytes."""
    host, _, port = url.removeprefix("http://").partition(":")
    reader, writer = await asyncio.open_connection(host, int(port), limit=2**16)
    head = "".join(f"{name}: {value}\r\n" for name, value in make.headers(user).items())
    writer.write(f"GET {URL} HTTP/1.1\r\nHost: test\r\n{head}\r\n".encode())
    while after_bytes > 0 and (received := await reader.read(2**16)):
        after_bytes -= len(received)
    writer.transport.abort()


async def test_an_export_is_completed_while_the_server_shuts_down_and_no_other_begins(
    settings: Settings, make: NoteFactory, small_batches: None
) -> None:
    notes = await make.notes(9)
    headers, others = [make.headers(await make.user()) for _ in range(2)]
    async with (
        running(settings) as app,
        client_of(app) as client,
        reading(app, headers) as reader,
    ):
        server_shutdown.begin()
        refused = await client.get(URL, headers=others)
        assert (refused.status_code, refused.json()["code"]) == (503, "unavailable")
        assert "retry-after" in refused.headers
        while not reader.is_complete:
            await reader.read()
    assert [line["id"] for line in lines_of(reader.body)] == [note.id for note in notes]


async def test_an_export_that_takes_too_long_ends_visibly_when_the_server_shuts_down(
    settings: Settings,
    make: NoteFactory,
    caplog: pytest.LogCaptureFixture,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """The client resumes, for example at another instance."""
    await make_many(make, 20_000)
    headers = {**make.headers(await make.user()), "Accept-Encoding": "identity"}
    received = b""
    async with running(settings) as app, served(app, settings) as url:
        change_limits(app, monkeypatch, grace_seconds=0)
        async with httpx2.AsyncClient(base_url=url, timeout=PATIENCE_SECONDS) as client:
            with pytest.raises(httpx2.RemoteProtocolError):
                async with client.stream("GET", URL, headers=headers) as response:
                    async for piece in response.aiter_raw():
                        if not received:
                            server_shutdown.begin()
                        received += piece
        lines = lines_of(received)
        assert 0 < len(lines) < 20_000
    assert "A response was cut off: the server shuts down" in caplog.text
    assert not [one for one in caplog.records if one.levelno >= logging.ERROR]
    url = f"{URL}?cursor={lines[-1]['cursor']}"
    server_shutdown.has_begun = False  # another instance
    async with running(settings) as another, client_of(another) as client:
        lines += lines_of((await client.get(url, headers=headers)).content)
    assert [int(line["title"]) for line in lines] == list(range(1, 20_001))
