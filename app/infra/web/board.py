"""A live board of the running service at `/`, for whoever develops it; no part of the API.

It is on in development, elsewhere when it is switched on, and for those who may see the metrics.
Its numbers are those of all workers. A viewer costs one event a second and holds no connection but
their own; when they leave, or the server ends, nothing is left.
"""

import asyncio
import base64
import hashlib
import time
from collections.abc import AsyncIterator, Iterator
from contextlib import asynccontextmanager, contextmanager, suppress
from pathlib import Path

import orjson
from anyio.to_thread import run_sync
from fastapi import APIRouter, Request, Response
from starlette.responses import HTMLResponse, StreamingResponse
from starlette.types import Receive, Scope, Send

from app.errors import NotFound, Unavailable
from app.infra.observability.request_context import request_context
from app.infra.observability.settings import MetricsSettings
from app.infra.observability.totals import totals
from app.infra.settings_base.section import Sections
from app.infra.shutdown import noting_the_end
from app.infra.web.head_requests import IS_HEAD
from app.infra.web.metrics_endpoint import may_see
from app.infra.web.security_headers import PAGE_HEADERS, PAGE_POLICY
from app.infra.web.settings import BoardSettings
from graceful_gunicorn import registry_of_all_workers

MOST_VIEWERS = 8  # of a worker: each is a connection that stays
EVERY_SECONDS = 1.0
# Of two viewers, the second is sent what was just collected for the first.
FRESH_SECONDS = 0.5
# A worker that is replaced ends its streams: browsers would wait three seconds.
RECONNECT = b"retry: 1000\n\n"

PARTS = {
    part: Path(__file__).with_name(f"board.{part}").read_text(encoding="utf-8")
    for part in ("css", "js")
}
PAGE = (
    Path(__file__)
    .with_name("board.html")
    .read_text(encoding="utf-8")
    .replace("/* board.css */", PARTS["css"])
    .replace("/* board.js */", PARTS["js"])
)

router = APIRouter(include_in_schema=False)


def _digest(part: str) -> str:
    return "sha256-" + base64.b64encode(hashlib.sha256(part.encode()).digest()).decode()


# This script and this style run, and nothing that anybody manages to put into the page.
HEADERS = {
    **PAGE_HEADERS,
    "Content-Security-Policy": (
        f"default-src 'none'; script-src '{_digest(PARTS['js'])}'; "
        f"style-src '{_digest(PARTS['css'])}'; connect-src 'self'; img-src data:; "
        f"{PAGE_POLICY}"
    ),
}
STREAM_HEADERS = {"X-Accel-Buffering": "no"}


class Board:
    """What the viewers of one process share: their number, and the event of this second."""

    def __init__(self) -> None:
        self.viewers = 0
        self.ending = asyncio.Event()
        self._lock = asyncio.Lock()
        self._collected_at = float("-inf")
        self._event = b""

    @contextmanager
    def viewer(self) -> Iterator[None]:
        """Take a place, or raise `Unavailable`."""
        if self.viewers >= MOST_VIEWERS:
            raise Unavailable("The board has as many viewers as it may have.")
        self.viewers += 1
        try:
            yield
        finally:
            self.viewers -= 1

    async def event(self) -> bytes:
        """Return the totals of now as an event, collected once for all who ask at a time."""
        async with self._lock:
            if time.monotonic() - self._collected_at > FRESH_SECONDS:
                # In a thread: another process may have the lock of the files.
                self._event = await run_sync(_collect)
                self._collected_at = time.monotonic()
            return self._event

    async def pause(self) -> None:
        """Sleep until the next second begins, for all viewers alike, or until the end."""
        with suppress(TimeoutError):
            seconds = EVERY_SECONDS - time.time() % EVERY_SECONDS
            await asyncio.wait_for(self.ending.wait(), seconds)


@asynccontextmanager
async def open_board() -> AsyncIterator[Board]:
    """Make the board of a process, whose viewers leave as soon as the server is told to end."""
    board = Board()
    with noting_the_end(board.ending):
        yield board


class EventStream(StreamingResponse):
    """An event a second until the viewer leaves. How long they watch is no latency."""

    media_type = "text/event-stream"

    def __init__(self, board: Board, request: Request) -> None:
        super().__init__(_events(board, request), headers=STREAM_HEADERS)
        self._board = board

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        with self._board.viewer():
            if (current := request_context.get()) is not None:
                current.answered()
            await super().__call__(scope, receive, send)


async def _events(board: Board, request: Request) -> AsyncIterator[bytes]:
    yield RECONNECT
    while IS_HEAD not in request.scope and not board.ending.is_set():
        yield await board.event()
        await board.pause()


def _collect() -> bytes:
    with registry_of_all_workers() as registry:
        return b"data: " + orjson.dumps(totals(registry)) + b"\n\n"


def _check(request: Request) -> None:
    """Raise `NotFound` for whoever may not see the board: they are not told that there is one."""
    settings: Sections = request.app.state.settings
    if not settings[BoardSettings].enabled or not may_see(request, settings[MetricsSettings]):
        raise NotFound("Not Found.")


@router.get("/")
async def page(request: Request) -> Response:
    """Show the board. It is one file, and asks for nothing but its events."""
    _check(request)
    return HTMLResponse(PAGE, headers=HEADERS)


@router.get("/board/events")
async def events(request: Request) -> Response:
    """Send the totals of all workers once a second, as server-sent events."""
    _check(request)
    return EventStream(request.app.state.board, request)
