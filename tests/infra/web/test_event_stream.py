"""Event streams: their limits, their ends, and what they do without the database."""

import asyncio
import re
import time
from collections.abc import AsyncIterator, Callable
from contextlib import AbstractAsyncContextManager, AsyncExitStack, asynccontextmanager
from typing import Any, NoReturn

import httpx2
import pytest
from fastapi import FastAPI
from prometheus_client import REGISTRY
from starlette.types import Message

from app.errors import Unavailable
from app.infra.events.catch_up import CATCHING_UP
from app.infra.events.hub import EventHub
from app.infra.events.topic import Frame, Topic
from app.infra.shutdown import server_shutdown
from app.infra.web.server_error import ClientTooSlow
from app.settings import Settings
from tests.application import running
from tests.coherent_cache.worker import eventually
from tests.contract.serving import serve
from tests.listeners import PATIENCE_SECONDS, Listening, listening
from tests.sample import notes
from tests.sample.factory import NoteFactory
from tests.sample.notes import Note

Run = Callable[..., AbstractAsyncContextManager["Case"]]


class Case:
    """An application with a note, and the stream of its replies."""

    def __init__(self, app: FastAPI, note: Note) -> None:
        self.app, self.note = app, note
        self.make = NoteFactory(app.state.resources)
        self.url = f"/test/notes/{note.id}/replies/stream"
        self.hub: EventHub = app.state.event_hub

    @property
    def places(self) -> int:
        return self.hub._places.taken

    async def reply(self) -> int:
        return (await self.make.reply(self.note)).id

    def listening(self, **options: Any) -> AbstractAsyncContextManager[Listening]:
        return listening(self.app, self.url, **options)


@pytest.fixture
def run(settings: Settings, make: NoteFactory) -> Run:
    """Run an application with changed settings of its event streams."""

    @asynccontextmanager
    async def run(limits: dict[str, int] | None = None, **events: float) -> AsyncIterator[Case]:
        values = settings.model_dump()
        values["events"] |= events
        values["limits"] |= limits or {}
        async with running(Settings.model_validate(values)) as app:
            yield Case(app, await make.note())

    return run


# Limits


async def test_client_that_has_too_many_streams_gets_429(run: Run) -> None:
    async with run(per_client=2) as case, AsyncExitStack() as stack:
        for _ in range(2):
            await stack.enter_async_context(case.listening())
        refused = await stack.enter_async_context(case.listening())
        assert refused.status == 429
        assert int(refused.headers["retry-after"]) > 0
        assert b"too many open event streams" in refused.messages[1]["body"]
        other = await stack.enter_async_context(case.listening(client="192.0.2.7"))
        assert other.status == 200
        user = case.make.headers(await case.make.user())
        by_token = await stack.enter_async_context(case.listening(headers=user))
        assert by_token.status == 200


async def test_process_that_has_too_many_listeners_answers_503(run: Run) -> None:
    async with run(listeners=2) as case:
        async with (
            case.listening(client="192.0.2.1"),
            case.listening(client="192.0.2.2"),
            case.listening(client="192.0.2.3") as refused,
        ):
            assert refused.status == 503
            assert int(refused.headers["retry-after"]) > 0
        assert case.places == 0
        async with case.listening() as listener:
            assert listener.status == 200


async def test_listeners_do_not_count_as_running_requests_or_other_streams(run: Run) -> None:
    async with run(limits={"running": 1, "queued": 0, "streams": 1}) as case:
        async with case.listening() as one, case.listening() as two:
            assert (one.status, two.status) == (200, 200)
            limiter = case.app.state.concurrency_limiter
            assert (limiter.running, limiter.streams) == (0, 0)
        assert limiter.streams == 0


async def test_client_that_does_not_read_is_cut_and_the_others_are_not(run: Run) -> None:
    before = REGISTRY.get_sample_value("event_stream_listeners_cut_total") or 0
    async with run(send_seconds=0.2) as case, case.listening() as reader:
        stalled = Listening(case.app, case.url)
        await eventually(lambda: len(stalled.messages) > 1)
        stalled.stall()
        sent = [await case.reply() for _ in range(3)]
        with pytest.raises(ClientTooSlow):
            await stalled.finished()
        await reader.received(*sent)
        assert case.places == 1
    assert stalled.ids == []
    assert (REGISTRY.get_sample_value("event_stream_listeners_cut_total") or 0) == before + 1


@pytest.mark.parametrize("method", ["GET", "HEAD"])
async def test_client_that_does_not_read_the_head_of_the_response_is_cut(
    run: Run, method: str
) -> None:
    """It has not read an earlier response on the same connection."""
    async with run(send_seconds=0.1) as case:
        stalled = Listening(case.app, case.url, method=method)
        stalled.stall()
        with pytest.raises(ClientTooSlow):
            await stalled.finished()
        assert case.places == 0


@pytest.mark.slow
def test_connection_of_a_client_that_does_not_read_is_closed(
    settings: Settings, clean: None, caplog: pytest.LogCaptureFixture
) -> None:
    """The server closes it without an error in the log, and frees what it had kept for it."""
    values = settings.model_dump()
    values["events"]["send_seconds"] = 0.5
    values["server"]["write_seconds"] = 1
    with serve(Settings.model_validate(values)) as served:
        served.app.include_router(notes.router)
        make = NoteFactory(served.resources)
        author = served.run(make.user())
        note = served.run(make.note(author))
        hub: EventHub = served.app.state.event_hub
        stream = httpx2.stream("GET", f"{served.url}/test/notes/{note.id}/replies/stream")
        with stream as response:
            assert response.status_code == 200
            deadline = time.monotonic() + PATIENCE_SECONDS
            while hub._places.taken and time.monotonic() < deadline:
                served.run(make.reply(note, author, body="x" * 1_000_000))
            assert hub._places.taken == 0
    assert [line for line in caplog.records if line.levelname == "ERROR"] == []


# Beginning and end


async def test_head_request_ends_at_once_and_keeps_no_place(run: Run) -> None:
    async with run() as case:
        head = Listening(case.app, case.url, method="HEAD")
        await head.finished()
        assert head.status == 200
        assert head.headers["content-type"].startswith("text/event-stream")
        assert head.content == b""
        assert case.places == 0


async def test_streams_end_with_an_event_when_the_server_shuts_down(run: Run) -> None:
    async with run() as case:
        listeners = [Listening(case.app, case.url) for _ in range(3)]
        await eventually(lambda: all(len(one.messages) > 1 for one in listeners))
        reply = await case.reply()
        for listener in listeners:
            await listener.received(reply)
        server_shutdown.begin()
        for listener in listeners:
            await listener.finished()
            assert listener.end == "shutdown"
            assert listener.messages[-1]["more_body"] is False
        late = Listening(case.app, case.url)  # on a connection that was open already
        await late.finished()
        assert (late.status, late.end) == (200, "shutdown")


class Stalled(Listening):
    """A client that reads the head of the response alone."""

    async def _send(self, message: Message) -> None:
        if message["type"] == "http.response.body":
            self.stall()
        await super()._send(message)


async def test_client_that_does_not_read_does_not_delay_the_shutdown(
    run: Run, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("app.infra.events.hub.END_SECONDS", 0.1)
    async with run(send_seconds=3_600) as case:
        stalled = Stalled(case.app, case.url)
        await eventually(lambda: stalled.status == 200)
        async with case.listening() as reader:
            server_shutdown.begin()
            await reader.finished()
            assert reader.end == "shutdown"
        late = Stalled(case.app, case.url)  # on a connection that was open already
        behind = Listening(case.app, case.url)  # and its earlier response was not read
        behind.stall()
        for one in (stalled, late, behind):
            with pytest.raises(ClientTooSlow):
                await one.finished()
        assert case.places == 0


async def test_client_that_disconnects_frees_its_place(run: Run) -> None:
    async with run() as case:
        tasks = asyncio.all_tasks()
        async with case.listening():
            assert case.places == 1
        assert case.places == 0
        assert not case.hub._topics
        await eventually(lambda: {t for t in asyncio.all_tasks() - tasks if not t.done()} == set())


async def test_clients_are_asked_to_reconnect_at_different_times(run: Run) -> None:
    async with run() as case, AsyncExitStack() as stack:
        listeners = [await stack.enter_async_context(case.listening()) for _ in range(10)]
        pauses = {int(re.findall(rb"^retry: (\d+)", one.content)[0]) for one in listeners}
    assert len(pauses) > 1
    assert all(1_000 <= pause <= 3_000 for pause in pauses)


async def test_quiet_stream_sends_comments(run: Run) -> None:
    async with run(heartbeat_seconds=0.01) as case, case.listening() as listener:
        await eventually(lambda: listener.content.count(b":\n\n") > 3)
        assert listener.events == []


async def test_listeners_and_events_are_measured(run: Run) -> None:
    def value(name: str) -> float:
        return REGISTRY.get_sample_value(name) or 0

    before = value("event_stream_events_total")
    async with run() as case:
        async with case.listening() as one, case.listening() as two:
            reply = await case.reply()
            await one.received(reply)
            await two.received(reply)
            await eventually(lambda: value("event_stream_listeners") == 2)
        await eventually(lambda: value("event_stream_listeners") == 0)
        assert value("event_stream_events_total") == before + 2


# The server and its client


async def test_client_that_has_had_no_event_keeps_its_place(run: Run) -> None:
    async with run() as case:
        await case.reply()
        async with case.listening() as listener:
            [place] = re.findall(rb"^retry: \d+\nid: (\d+)\n\n", listener.content)
            assert listener.events == []
        missed = await case.reply()  # before it reconnects
        async with case.listening(last=place.decode()) as again:
            await again.received(missed)


class Gone(Listening):
    """A client that has disconnected. Some servers raise an error then."""

    async def _send(self, message: Message) -> None:
        if len(self.messages) > 1:
            raise ConnectionResetError
        await super()._send(message)


async def test_stream_ends_quietly_when_the_server_cannot_send(run: Run) -> None:
    async with run() as case:
        gone = Gone(case.app, case.url)
        await eventually(lambda: len(gone.messages) > 1)
        await case.reply()
        await gone.finished()
        assert case.places == 0


async def test_error_of_a_feed_is_not_taken_for_a_client_that_has_left(
    run: Run, monkeypatch: pytest.MonkeyPatch
) -> None:
    async with run() as case:
        await case.reply()
        async with case.listening():
            with monkeypatch.context() as patch:
                patch.setattr(case.hub._reader, "read", time_out)
                listener = Listening(case.app, case.url, last=0)
                await asyncio.wait({listener.task}, timeout=PATIENCE_SECONDS)
            assert isinstance(listener.task.exception(), TimeoutError)


async def time_out(*_: object) -> NoReturn:
    raise TimeoutError("A feed asked another service.")


# The database


async def test_client_that_waits_for_its_turn_gets_heartbeats_and_may_leave(
    run: Run, monkeypatch: pytest.MonkeyPatch
) -> None:
    async with run(heartbeat_seconds=0.05) as case:
        reply = await case.reply()
        answers = asyncio.Event()
        read = case.hub._reader.read

        async def read_late(topic: Topic, *place: int) -> list[Frame]:
            await answers.wait()
            return await read(topic, *place)

        monkeypatch.setattr(case.hub._reader, "read", read_late)
        reading = [Listening(case.app, case.url, last=0) for _ in range(CATCHING_UP)]
        await eventually(lambda: all(len(one.messages) > 1 for one in reading))
        async with case.listening(last=0) as waiting, case.listening(last=0) as patient:
            await eventually(lambda: waiting.content.count(b":\n\n") > 3)
            await waiting.leave()
            answers.set()
            for one in (*reading, patient):
                await one.received(reply)
        for one in reading:
            await one.leave()


@pytest.mark.parametrize("end", ["shutdown", "deleted"])
async def test_client_that_waits_for_its_turn_learns_at_once_that_its_stream_ends(
    run: Run, monkeypatch: pytest.MonkeyPatch, end: str
) -> None:
    """The database does not answer reads. A client that leaves frees its place, too."""
    monkeypatch.setattr("app.infra.events.hub.END_SECONDS", 3_600)
    async with run(heartbeat_seconds=3_600) as case:
        await case.reply()
        monkeypatch.setattr(case.hub._catch_up._reader, "read", hang)
        reading = [Listening(case.app, case.url, last=0) for _ in range(CATCHING_UP)]
        await eventually(lambda: all(len(one.messages) > 1 for one in reading))
        waiting, leaving = (Listening(case.app, case.url, last=0) for _ in range(2))
        await eventually(lambda: all(len(one.messages) > 1 for one in (waiting, leaving)))
        await leaving.leave()
        if end == "shutdown":
            server_shutdown.begin()
        else:
            [[topic]] = case.hub._topics.values()
            topic.end()
        await waiting.finished()
        assert waiting.end == end
        for one in reading:
            one.task.cancel()
        await asyncio.wait({one.task for one in reading})
        assert case.places == 0


async def hang(*_: object) -> NoReturn:
    await asyncio.Event().wait()
    raise AssertionError


async def test_clients_that_missed_the_same_events_share_a_read(
    run: Run, monkeypatch: pytest.MonkeyPatch
) -> None:
    """All clients of a worker that was replaced come back at the same time."""
    monkeypatch.setattr("app.infra.events.topic.KEPT_SECONDS", 3_600)
    async with run() as case:
        replies = [await case.reply() for _ in range(3)]
        answers, reads = asyncio.Event(), 0
        read = case.hub._reader.read

        async def read_late(topic: Topic, *place: int) -> list[Frame]:
            nonlocal reads
            reads += 1
            await answers.wait()
            return await read(topic, *place)

        monkeypatch.setattr(case.hub._reader, "read", read_late)
        clients = [Listening(case.app, case.url, last=0) for _ in range(20)]
        await eventually(lambda: all(len(one.messages) > 1 for one in clients))
        answers.set()
        for client in clients:
            await client.received(*replies)
        assert reads <= CATCHING_UP + 1  # and the one of the topic
        for client in clients:
            await client.leave()


async def test_client_that_catches_up_reads_few_events_twice(
    run: Run, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("app.infra.events.catch_up.MAX_BYTES", 600)  # a few replies
    async with run() as case:
        sent = [await case.reply() for _ in range(60)]
        found: list[Frame] = []
        read = case.hub._reader.read

        async def read_and_count(topic: Topic, *place: int) -> list[Frame]:
            frames = await read(topic, *place)
            found.extend(frames)
            return frames

        monkeypatch.setattr(case.hub._reader, "read", read_and_count)
        async with case.listening(last=0) as listener:
            await listener.received(*sent)
        assert len(found) < 4 * len(sent)  # and 15 times as many if each read returned the rest


async def test_client_that_catches_up_gets_a_limited_number_of_bytes_at_once(
    run: Run, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("app.infra.events.catch_up.MAX_BYTES", 1)
    async with run() as case:
        sent = [await case.reply() for _ in range(4)]
        async with case.listening(last=0) as listener:
            await listener.received(*sent)
            later = await case.reply()
            await listener.received(*sent, later)
            bodies = [message["body"] for message in listener.messages[1:]]
        # The topic has what it has read itself, which is the last one here.
        assert max(body.count(b"\ndata: ") for body in bodies) == 1


async def test_reconnection_to_valkey_during_a_comparison_asks_for_another_one(
    run: Run, monkeypatch: pytest.MonkeyPatch
) -> None:
    async with run() as case:
        hub = EventHub(case.hub.settings, case.app.state.resources.database, None)

        async def reconnect(_: object) -> None:
            hub._on_invalidated(None)

        monkeypatch.setattr(hub, "_compare", reconnect)
        await hub._compare_all()
        assert hub._is_comparison_due()
        monkeypatch.setattr(hub, "_compare", refuse)
        with pytest.raises(Unavailable):
            await hub._compare_all()
        assert hub._is_comparison_due()


async def test_stream_goes_on_while_the_database_is_away(
    run: Run, monkeypatch: pytest.MonkeyPatch
) -> None:
    """It sends heartbeats, and afterwards what it missed. So does one that still catches up."""
    async with run(heartbeat_seconds=0.05) as case:
        first = await case.reply()
        async with case.listening() as listener:
            with monkeypatch.context() as patch:
                patch.setattr(case.hub._reader, "read", refuse)
                second = await case.reply()
                catching_up = Listening(case.app, case.url, last=0)
                for one in (listener, catching_up):
                    await eventually(lambda one=one: one.content.count(b":\n\n") > 10)  # type: ignore[misc]
                assert (listener.ids, catching_up.ids) == ([], [])
            await listener.received(second)
            await catching_up.received(first, second)
            await catching_up.leave()


async def test_clients_do_not_all_ask_the_database_while_it_is_away(
    run: Run, monkeypatch: pytest.MonkeyPatch
) -> None:
    """One pause counts for all of them. They get heartbeats meanwhile."""
    reads = 0

    async def refuse_and_count(*_: object) -> NoReturn:
        nonlocal reads
        reads += 1
        await refuse()

    monkeypatch.setattr("app.infra.events.reader.MIN_PAUSE_SECONDS", 3_600)
    monkeypatch.setattr("app.infra.events.reader.MAX_PAUSE_SECONDS", 3_600)
    async with run(heartbeat_seconds=0.05) as case, AsyncExitStack() as stack:
        await case.reply()
        monkeypatch.setattr(case.hub._reader, "read", refuse_and_count)
        opened = (case.listening(last=0) for _ in range(20))
        for listener in [await stack.enter_async_context(one) for one in opened]:
            await eventually(lambda one=listener: one.content.count(b":\n\n") > 3)  # type: ignore[misc]
    assert reads <= CATCHING_UP + 1  # and the one of the topic


async def refuse(*_: object) -> NoReturn:
    raise Unavailable("The database is not available.")


async def test_slow_client_reads_the_database_when_the_topic_has_forgotten(
    run: Run, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("app.infra.events.topic.MAX_FRAMES", 2)
    async with run(send_seconds=3_600) as case, case.listening() as reader:
        slow = Listening(case.app, case.url)
        await eventually(lambda: len(slow.messages) > 1)
        slow.stall()
        sent = [await case.reply() for _ in range(8)]
        await reader.received(*sent)
        slow._reads.set()
        await slow.received(*sent)
        await slow.leave()
