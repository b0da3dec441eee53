"""Round trips to PostgreSQL, counted by its ReadyForQuery messages on the wire."""

import asyncio
from collections.abc import AsyncIterator, Iterator
from contextlib import asynccontextmanager, contextmanager
from dataclasses import dataclass

from fastapi import FastAPI
from sqlalchemy import make_url

from app.settings import Settings
from tests.application import client_of, running
from tests.sample.factory import NoteFactory

READY_FOR_QUERY = ord("Z")
UNCACHED = {"Cache-Control": "no-store"}


@dataclass
class Wire:
    """A proxy for PostgreSQL that counts the ReadyForQuery messages of the server."""

    url: str = ""
    answered: int = 0

    @contextmanager
    def round_trips(self, expected: int) -> Iterator[None]:
        before = self.answered
        yield
        assert self.answered - before == expected

    async def forward(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        while data := await reader.read(65_536):
            writer.write(data)
            await writer.drain()
        writer.close()

    async def count(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        """Forward whole messages: a type, a length that counts itself, and the rest."""
        while head := await reader.read(1):
            length = await reader.readexactly(4)
            rest = await reader.readexactly(int.from_bytes(length) - 4)
            self.answered += head[0] == READY_FOR_QUERY
            writer.write(head + length + rest)
        writer.close()


@asynccontextmanager
async def wire_to(database_url: str) -> AsyncIterator[Wire]:
    """Start a counting proxy for the database."""
    wire, url = Wire(), make_url(database_url)

    async def connect(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        server_reader, server_writer = await asyncio.open_connection(url.host, url.port)
        async with asyncio.TaskGroup() as tasks:
            tasks.create_task(wire.forward(reader, server_writer))
            tasks.create_task(wire.count(server_reader, writer))

    server = await asyncio.start_server(connect, "127.0.0.1", 0)
    port = server.sockets[0].getsockname()[1]
    wire.url = url.set(port=port, query={"ssl": "disable"}).render_as_string(hide_password=False)
    async with server:
        yield wire


@asynccontextmanager
async def wired(settings: Settings) -> AsyncIterator[tuple[Wire, FastAPI]]:
    """Run the application with one connection, through a counting proxy."""
    async with wire_to(settings.database.url.get_secret_value()) as wire:
        values = {**settings.model_dump(), "database": {"url": wire.url, "pool_size": 1}}
        async with running(Settings.model_validate(values)) as app:
            yield wire, app


async def test_read_is_one_round_trip_and_an_unused_session_none(
    settings: Settings, make: NoteFactory
) -> None:
    reply = await make.reply()
    note = f"/test/notes/{reply.parent_id}"
    async with wired(settings) as (wire, app), client_of(app) as client:
        for url in (note, "/test/notes", f"{note}/replies", f"/v1/users/{reply.author_id}"):
            await client.get(url, headers=UNCACHED)  # connect and prepare the statement
            with wire.round_trips(1):
                assert (await client.get(url, headers=UNCACHED)).status_code == 200
        with wire.round_trips(0):
            await client.get("/test/notes?limit=0")
            await client.get("/livez")


async def test_write_is_its_statements_between_begin_and_commit(
    settings: Settings, make: NoteFactory
) -> None:
    headers = make.headers(await make.user())
    content = {"title": "T", "body": "B"}
    async with wired(settings) as (wire, app), client_of(app) as client:
        await client.post("/test/notes", json=content, headers=headers)
        with wire.round_trips(4):  # BEGIN, INSERT, INSERT into the outbox, COMMIT
            await client.post("/test/notes", json=content, headers=headers)


async def test_cache_hit_takes_no_round_trip(settings: Settings, make: NoteFactory) -> None:
    reply = await make.reply()
    note = f"/test/notes/{reply.parent_id}"
    async with wired(settings) as (wire, app), client_of(app) as client:
        for url in (note, "/test/notes", f"{note}/replies", f"/v1/users/{reply.author_id}"):
            await client.get(url)
            with wire.round_trips(0):
                for headers in ({}, {"Cache-Control": "no-cache"}):
                    response = await client.get(url, headers=headers)
                    assert response.headers["x-cache"].startswith("HIT")
