"""A live board of the running service at `/`, for its developers. It is not part of the API.

`make remove name=board` removes it.
"""

import html
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Annotated

from fastapi import APIRouter, Depends, FastAPI, Request
from starlette.responses import HTMLResponse, StreamingResponse

from app.errors import NotFound
from app.features.board.service import Board
from app.features.board.settings import BoardSettings
from app.infra.observability.request_context import request_context
from app.infra.observability.settings import MetricsSettings
from app.infra.shutdown import shutdown_event
from app.infra.web.head_requests import is_head_request
from app.infra.web.metrics_endpoint import may_see_metrics
from app.infra.web.response_headers import PAGE_HEADERS, PAGE_POLICY, content_hash
from app.infra.web.section_dependency import section

# When a worker is replaced, its streams end. Without this, browsers wait three seconds.
RECONNECT = b"retry: 1000\n\n"
STREAM_HEADERS = {"X-Accel-Buffering": "no"}

HTML, STYLE, SCRIPT = (
    Path(__file__).with_name(f"page.{suffix}").read_text(encoding="utf-8")
    for suffix in ("html", "css", "js")
)
PAGE = HTML.replace("/* page.css */", STYLE).replace("/* page.js */", SCRIPT)


# Only this script and this style run, whatever an attacker manages to put into the page.
HEADERS = {
    **PAGE_HEADERS,
    "Content-Security-Policy": (
        f"default-src 'none'; script-src '{content_hash(SCRIPT)}'; "
        f"style-src '{content_hash(STYLE)}'; connect-src 'self'; img-src data:; {PAGE_POLICY}"
    ),
}


def board_page(service: str, environment: str) -> str:
    """Return the page, which says which service it shows."""
    page = PAGE.replace("{service}", html.escape(service))
    return page.replace("{environment}", html.escape(environment))


@asynccontextmanager
async def lifespan(app: FastAPI) -> AsyncIterator[None]:
    """Keep the board of this process. Its viewers leave as soon as the server shuts down."""
    with shutdown_event() as event:
        app.state.board = Board(event)
        yield


async def check_permission(
    request: Request,
    settings: Annotated[BoardSettings, Depends(section(BoardSettings))],
    metrics: Annotated[MetricsSettings, Depends(section(MetricsSettings))],
) -> None:
    """Answer 404 if the board is off, or if the client may not see the metrics either."""
    if not settings.enabled or not may_see_metrics(request, metrics):
        raise NotFound("Not Found.")


async def take_place(request: Request) -> AsyncIterator[Board]:
    """Take a viewer's place on the board, until the response has ended."""
    board: Board = request.app.state.board
    with board.viewer():
        yield board


router = APIRouter(
    include_in_schema=False, lifespan=lifespan, dependencies=[Depends(check_permission)]
)


@router.get("/")
async def page(request: Request) -> HTMLResponse:
    """Show the board: one file, which loads nothing except its events."""
    app: FastAPI = request.app
    return HTMLResponse(board_page(app.title, app.state.environment), headers=HEADERS)


@router.get("/board/events")
async def events(board: Annotated[Board, Depends(take_place)]) -> StreamingResponse:
    """Send the totals of all workers once a second, as server-sent events."""
    if (current := request_context.get()) is not None:
        current.stop_clock()  # the time for which somebody watches is not latency
    stream = _events(board, is_head=is_head_request())
    return StreamingResponse(stream, media_type="text/event-stream", headers=STREAM_HEADERS)


async def _events(board: Board, *, is_head: bool) -> AsyncIterator[bytes]:
    yield RECONNECT
    while not is_head and not board.shutdown.is_set():
        yield b"data: %b\n\n" % await board.latest()
        await board.wait()
