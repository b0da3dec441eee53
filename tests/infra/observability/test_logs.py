"""The log: what its lines contain, and that no request waits for the reader of the log."""

import asyncio
import json
import logging
import os
import subprocess
import sys
import threading
import time
from collections.abc import AsyncIterator, Callable
from contextlib import suppress
from datetime import UTC, datetime
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import httpx2
import pytest
from pydantic import SecretStr
from sqlalchemy import text
from starlette.datastructures import Headers

from app.infra.dependencies import WriteSession
from app.infra.observability import log_writer
from app.infra.observability.background import in_thread
from app.infra.observability.log_writer import LogWriter
from app.infra.observability.logs import Log, as_json, as_text
from app.infra.observability.request_context import RequestContext, request_context
from app.infra.observability.settings import LogSettings
from app.settings import Settings
from tests.application import client_of, running
from tests.factory import MORNING
from tests.sample.factory import NoteFactory

Client = httpx2.AsyncClient
Lines = Callable[[], list[dict[str, Any]]]

LOG_AND_EXIT = """
import logging
from app.infra.observability.logs import open_log
from app.infra.observability.settings import LogSettings

open_log(LogSettings(), is_production=True)
logging.getLogger("app.test").warning("The last line")
"""

LOG_AND_FORK = """
import os
from app.infra.observability import log_writer

log_writer.WRITE_INTERVAL_SECONDS = 60
writer = log_writer.LogWriter(1)
writer.write(b"parent\\n")
child = os.fork()
if not child:
    writer.write(b"child\\n")
writer.close()
if child:
    os.waitpid(child, 0)
"""

LOG_AS_PACKAGES = """
import logging
from app.infra.observability.logs import open_log
from app.infra.observability.settings import LogSettings

open_log(LogSettings(), is_production=True)
for name in ("app", "coherent_cache", "graceful_gunicorn"):
    logging.getLogger(name + ".test").info("A line of %s", name)
    logging.getLogger(name + ".test").debug("Not this one")
"""


@pytest.fixture
def log(tmp_path: Path) -> Log:
    """A log that is written to a file."""
    return Log(LogSettings(), as_json, os.open(tmp_path / "log", os.O_WRONLY | os.O_CREAT))


@pytest.fixture
def lines(log: Log, tmp_path: Path) -> Lines:
    """Return the lines that were written."""

    def read() -> list[dict[str, Any]]:
        log.writer.close()
        return [json.loads(line) for line in (tmp_path / "log").read_bytes().splitlines()]

    return read


@pytest.fixture
async def client(settings: Settings, log: Log, clean: None) -> AsyncIterator[Client]:
    async with running(settings, log) as app, client_of(app) as client:
        yield client


async def test_request_is_one_line_with_its_details(
    client: Client, make: NoteFactory, lines: Lines
) -> None:
    note = await make.note()
    for _ in range(2):
        response = await client.get(f"/test/notes/{note.id}")
    miss, hit = lines()
    assert miss["event"] == "request"
    assert (miss["method"], miss["path"]) == ("GET", f"/test/notes/{note.id}")
    assert (miss["route"], miss["status"], miss["statements"]) == ("/test/notes/{note_id}", 200, 1)
    assert 0 < miss["database_seconds"] < miss["seconds"]
    assert (miss["cache"], hit["cache"]) == ("MISS", "HIT-L1") or hit["cache"] == "HIT"
    assert (hit["route"], hit["statements"]) == ("/test/notes/{note_id}", 0)
    assert hit["request_id"] == response.headers["x-request-id"]


async def test_last_lines_are_written_when_the_application_stops(
    settings: Settings, log: Log, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(log_writer, "WRITE_INTERVAL_SECONDS", 60)
    async with running(settings, log) as app, client_of(app) as client:
        await client.get("/livez")
    assert b"/livez" in (tmp_path / "log").read_bytes()


def test_last_lines_are_written_when_the_process_exits() -> None:
    process = subprocess.run([sys.executable, "-c", LOG_AND_EXIT], capture_output=True, check=True)
    assert json.loads(process.stdout)["event"] == "The last line"


async def test_lines_contain_no_secrets(client: Client, make: NoteFactory, lines: Lines) -> None:
    headers = make.headers(await make.user(email="secret@example.com"))
    form = {"username": "secret@example.com", "password": "secret"}
    await client.post("/v1/auth/token", data=form)
    await client.post("/test/notes", json={"title": "secret", "body": "secret"}, headers=headers)
    await client.get("/test/notes?secret=secret", headers=headers)
    written = json.dumps(lines())
    assert "secret" not in written
    assert headers["Authorization"].removeprefix("Bearer ") not in written


async def test_waiting_for_a_connection_is_measured(
    settings: Settings, log: Log, lines: Lines, clean: None
) -> None:
    waited: list[float] = []
    one = settings.model_copy(
        update={"database": settings.database.model_copy(update={"pool_size": 1})}
    )
    async with running(one, log) as app, client_of(app) as client:

        @app.get("/sleeps")
        async def sleeps(session: WriteSession) -> None:
            await session.execute(text("SELECT pg_sleep(0.2)"))
            current = request_context.get()
            assert current is not None
            waited.append(current.pool_wait_seconds)

        await client.get("/sleeps")
        async with app.state.resources.database.transaction() as session:
            await session.execute(text("SELECT 1"))
            waits = asyncio.create_task(client.get("/sleeps"))
            while not app.state.concurrency_limiter.running:
                await asyncio.sleep(0)
            await asyncio.sleep(0.3)
        await waits
    first, second = lines()
    assert 0.2 <= first["database_seconds"] <= first["seconds"]
    assert 0 < waited[1] <= second["seconds"] - second["database_seconds"]


@pytest.mark.parametrize(
    ("database", "waited", "upstream", "cause"),
    [
        (0.1, 0.1, 0.1, "application code or other I/O"),
        (0.6, 0.1, 0.1, "the database, 0.500 s of it: SELECT pg_sleep($1)"),
        (0.1, 0.6, 0.1, "waiting 0.600 s for a database connection"),
        (0.1, 0.1, 0.6, "other services, 0.550 s of it: profiles"),
    ],
)
async def test_slow_request_is_logged_with_the_cause(
    log: Log, lines: Lines, database: float, waited: float, upstream: float, cause: str
) -> None:
    current = RequestContext("id", "GET", "/")
    current.seconds, current.pool_wait_seconds = 1, waited
    current.add_database_time("SELECT\n pg_sleep($1)", database - 0.1)
    current.add_database_time("SELECT 1", 0.1)
    current.add_upstream_time("profiles", upstream - 0.05)
    current.add_upstream_time("others", 0.05)
    log._slow_seconds = 0.9
    log.request(current)
    [line] = lines()
    assert line["level"] == "WARNING"
    assert line["slow"] == cause


async def test_path_cannot_forge_a_line(settings: Settings, tmp_path: Path) -> None:
    log = Log(LogSettings(), as_text, os.open(tmp_path / "log", os.O_WRONLY | os.O_CREAT))
    async with running(settings, log) as app, client_of(app) as client:
        await client.get("/a%0a15:00:00 200 GET /admin%1b[31m%00")
    log.writer.close()
    written = (tmp_path / "log").read_bytes()
    assert written.count(b"\n") == 1
    assert b"\x1b" not in written
    assert b"\0" not in written


@pytest.mark.parametrize("render", [as_json, as_text])
def test_client_address_is_short_and_printable(
    monkeypatch: pytest.MonkeyPatch, render: Callable[[dict[str, Any]], bytes]
) -> None:
    written: list[bytes] = []
    log = Log(LogSettings(), render)
    monkeypatch.setattr(log.writer, "write", written.append)
    log.request(RequestContext("request-1", "GET", "/livez", "\x1b[31m\n" + "x" * 5_000))
    log.request(RequestContext("request-2", "GET", "/livez", "2001:db8::1"))
    assert len(written[0]) < 700
    assert b"\x1b" not in written[0]
    assert written[0].count(b"\n") == 1
    assert b"2001:db8::1" in written[1]


async def test_line_is_bounded_whatever_a_client_sends(client: Client, lines: Lines) -> None:
    long = "x" * 5_000
    headers = dict.fromkeys(("User-Agent", "X-Request-ID", "Referer", "X-Forwarded-For"), long)
    for path in (f"/{long}", f"/test/notes/{long}", f"/test/notes?{long}={long}", "/%00" * 5_000):
        await client.get(path, headers=headers)
    written = [line for line in lines() if line["event"] == "request"]
    assert len(written) == 4
    assert max(len(json.dumps(line)) for line in written) < 4_000
    assert long[:1_000] not in json.dumps(written)


def test_lines_of_two_workers_in_one_pipe_stay_whole() -> None:
    reader, descriptor = os.pipe()
    writers = [LogWriter(descriptor) for _ in range(2)]
    for number in range(4_000):
        for name, writer in zip(b"ab", writers, strict=True):
            writer.write(bytes([name]) * (1 + number % 300) + b"\n")
    closing = [threading.Thread(target=writer.close) for writer in writers]
    for thread in closing:
        thread.start()
    received = b""
    while received.count(b"\n") < 8_000:
        received += os.read(reader, 1_000)
    for thread in closing:
        thread.join()
    assert all(len(set(line)) == 1 for line in received.splitlines())


def test_long_line_is_written_as_one_piece(monkeypatch: pytest.MonkeyPatch) -> None:
    pieces: list[bytes] = []

    def write(_descriptor: int, piece: bytes) -> int:
        pieces.append(piece)
        return len(piece)

    monkeypatch.setattr(log_writer, "os", SimpleNamespace(write=write))
    writer, lines = LogWriter(1), [b"short\n", b"x" * 10_000 + b"\n", b"short\n"]
    for line in lines:
        writer.write(line)
    writer.close()
    assert b"".join(pieces) == b"".join(lines)
    assert all(piece.endswith(b"\n") for piece in pieces)


async def test_record_is_a_line_with_its_exception(log: Log, lines: Lines) -> None:
    logger = logging.getLogger("app.test.records")
    logger.addHandler(log)
    try:
        raise ValueError("wrong")
    except ValueError:
        logger.exception("It is %s", "so")
    [line] = lines()
    assert (line["event"], line["logger"], line["level"]) == (
        "It is so",
        "app.test.records",
        "ERROR",
    )
    assert "ValueError: wrong" in line["exception"]


def test_log_level_applies_to_the_packages_too() -> None:
    command = [sys.executable, "-c", LOG_AS_PACKAGES]
    process = subprocess.run(command, capture_output=True, check=True)
    events = [json.loads(line)["event"] for line in process.stdout.splitlines()]
    assert events == ["A line of app", "A line of coherent_cache", "A line of graceful_gunicorn"]


@pytest.mark.parametrize("slow_seconds", [60, 0])
async def test_request_is_readable_as_text(
    settings: Settings, tmp_path: Path, clean: None, slow_seconds: float
) -> None:
    log = Log(LogSettings(), as_text, os.open(tmp_path / "log", os.O_WRONLY | os.O_CREAT))
    log._slow_seconds = slow_seconds
    async with running(settings, log) as app, client_of(app) as client:
        await client.get("/test/notes?limit=3")
        await client.get("/livez")
    log.writer.close()
    notes, livez = (tmp_path / "log").read_text(encoding="utf-8").splitlines()
    assert "] 200 GET /test/notes, " in notes
    assert ", 1 statements, MISS" in notes
    assert ("slow because of" in notes) == (slow_seconds == 0)
    assert "] 200 GET /livez, " in livez
    assert not log.writer.dropped


def test_record_is_readable_as_text() -> None:
    log = Log(LogSettings(), as_text)
    written: list[bytes] = []
    log.writer.write = lambda line: written.append(line)  # type: ignore[method-assign]
    record = logging.LogRecord("app.x", logging.WARNING, "", 1, "Valkey is \ud800", (), None)
    log.emit(record)
    [line] = written
    assert line.decode().endswith("WARNING app.x: Valkey is \\ud800\n")


def test_first_lines_of_two_threads_start_one_writer(monkeypatch: pytest.MonkeyPatch) -> None:
    writer = LogWriter(os.open("/dev/null", os.O_WRONLY))
    other = threading.Thread(target=writer.write, args=(b"2\n",))
    started = []

    def start_slowly(*arguments: Any) -> threading.Thread:
        started.append(arguments)
        if len(started) == 1:
            other.start()
            other.join(0.2)  # without a lock, the other thread starts a second writer meanwhile
        return in_thread(*arguments)

    monkeypatch.setattr(log_writer, "in_thread", start_slowly)
    writer.write(b"1\n")
    other.join()
    writer.close()
    assert len(started) == 1


def test_writer_sleeps_while_nothing_is_logged(monkeypatch: pytest.MonkeyPatch) -> None:
    write_waiting, woken = LogWriter._write_waiting, list[int]()

    def note_and_write(self: LogWriter) -> None:
        woken.append(1)
        write_waiting(self)

    monkeypatch.setattr(LogWriter, "_write_waiting", note_and_write)
    monkeypatch.setattr(log_writer, "WRITE_INTERVAL_SECONDS", 0.001)
    reader, descriptor = os.pipe()
    writer = LogWriter(descriptor)
    for line in (b"1\n", b"2\n"):
        writer.write(line)
        assert os.read(reader, 100) == line
    time.sleep(0.1)
    assert len(woken) <= 4
    writer.close()


def test_forked_process_writes_its_own_lines_only() -> None:
    output = subprocess.check_output([sys.executable, "-W", "ignore", "-c", LOG_AND_FORK])
    assert sorted(output.split()) == [b"child", b"parent"]


def test_lines_that_cannot_be_written_are_counted() -> None:
    writer = LogWriter(os.open("/dev/full", os.O_WRONLY))
    for _ in range(10):
        writer.write(b"line\n")
    writer.close()
    assert writer.dropped == 10


def test_lines_that_nobody_reads_are_dropped_and_counted(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(log_writer, "MAX_WAITING", 100)
    monkeypatch.setattr(log_writer, "CLOSE_SECONDS", 0.01)
    reader, descriptor = os.pipe()
    writer = LogWriter(descriptor)
    for _ in range(2_000):
        writer.write(bytes(1_000))
    assert writer.dropped
    writer.close()
    os.set_blocking(reader, False)
    with suppress(BlockingIOError):
        while os.read(reader, 65_536):
            pass


class BrokenRepr:
    def __repr__(self) -> str:
        raise RuntimeError("no")


EXTRA = {
    "order_id": 7,
    "items": [{"sku": "a", "left": 0.5}, None],
    "level": "mine",
    "exception": "mine",
    "when": MORNING,
    "broken": BrokenRepr(),
    "huge": 10**5_000,
    "long": "x" * 100_000,
    "many": list(range(10_000)),
    "password": "hunter2",
    "headers": {"Authorization": "hunter2", "X-Api-Key": "hunter2"},
    "secret_value": SecretStr("hunter2"),
    "setting": SecretStr("hunter2"),
    "account": SimpleNamespace(name="Ada", password="hunter2", key=b"k"),
    "deep": [[[[[{"password": "hunter2"}]]]]],
    "url": "postgresql://app:hunter2@db/app",
    "line\nbreak": "a\nb",
}


def test_extra_fields_are_in_the_line(log: Log, lines: Lines) -> None:
    logger = logging.getLogger("app.test.extra")
    logger.addHandler(log)
    logger.warning("request", extra=EXTRA)
    [line] = lines()
    assert (line["event"], line["level"], line["order_id"]) == ("request", "WARNING", 7)
    assert line["items"] == [{"sku": "a", "left": 0.5}, None]
    assert (line["extra_level"], line["extra_exception"]) == ("mine", "mine")
    assert line["when"] == repr(MORNING)
    assert "BrokenRepr" in line["broken"]
    assert len(line["many"]) <= 50
    written = json.dumps(line)
    assert len(written) < 10_000
    assert "hunter2" not in written


TWICE = [(b"authorization", b"Bearer hunter2"), (b"accept", b"a"), (b"accept", b"b")]


@pytest.mark.parametrize(
    "value",
    [
        Headers(raw=TWICE),
        Headers(raw=TWICE[:2]),
        Headers({"X-Api-Key": "hunter2 " * 500}),
        TWICE,
        [("password", "hunter2")],
        SimpleNamespace(password='two "hunter2"', token=b"a' hunter2"),
        SimpleNamespace(password="two ' \" hunter2"),
        SimpleNamespace(note="it's", token="a 'hunter2'"),
    ],
)
def test_secret_in_a_representation_is_hidden(log: Log, lines: Lines, value: object) -> None:
    log.emit(logging.makeLogRecord({"msg": "Sent", "sent": value}))
    [line] = lines()
    assert "***" in str(line["sent"])
    assert "hunter2" not in str(line)


def test_number_of_another_library_is_a_json_number(log: Log, lines: Lines) -> None:
    class Double(float):
        """Like a float of NumPy."""

    log.emit(logging.makeLogRecord({"msg": "Sum", "sum": Double(1.5), "none": Double("nan")}))
    [line] = lines()
    assert (line["sum"], line["none"]) == (1.5, None)
    assert datetime.fromisoformat(line["time"]).tzinfo is UTC


def test_extra_fields_are_readable_as_text() -> None:
    log = Log(LogSettings(), as_text)
    written: list[bytes] = []
    log.writer.write = lambda line: written.append(line)  # type: ignore[method-assign]
    log.emit(logging.makeLogRecord({"name": "app.x", "msg": "request", **EXTRA}))
    log.emit(logging.makeLogRecord({"name": "app.x", "msg": "Plain"}))
    [line, plain] = (line.decode() for line in written)
    assert " app.x: request " in line
    assert "order_id=7" in line
    assert "extra_level='mine'" in line
    assert line.count("\n") == 1
    assert "hunter2" not in line
    assert plain.endswith("app.x: Plain\n")


@pytest.mark.parametrize("shown", [True, False])
@pytest.mark.parametrize("render", [as_json, as_text])
async def test_client_address_is_logged_unless_it_is_switched_off(
    settings: Settings, tmp_path: Path, shown: bool, render: Callable[[Any], bytes]
) -> None:
    descriptor = os.open(tmp_path / "log", os.O_WRONLY | os.O_CREAT)
    log = Log(LogSettings(client_address=shown), render, descriptor)
    async with running(settings, log) as app:
        transport = httpx2.ASGITransport(app, client=("203.0.113.9", 1234))
        async with httpx2.AsyncClient(transport=transport, base_url="http://test") as client:
            await client.get("/livez")
    log.writer.close()
    assert (b"203.0.113.9" in (tmp_path / "log").read_bytes()) == shown
