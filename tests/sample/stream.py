"""An endless stream that ends when the server shuts down."""

import asyncio
from collections.abc import AsyncIterator
from contextlib import suppress

from fastapi import APIRouter, FastAPI
from fastapi.responses import StreamingResponse

from app.infra.shutdown import shutdown_event

router = APIRouter()


@router.get("/test/stream")
async def stream() -> StreamingResponse:
    """Send a byte ten times a second."""

    async def send() -> AsyncIterator[bytes]:
        with shutdown_event() as event:
            while not event.is_set():
                yield b"."
                with suppress(TimeoutError):
                    await asyncio.wait_for(event.wait(), 0.1)

    return StreamingResponse(send())


def service() -> FastAPI:
    """Return the service with this stream, for Gunicorn."""
    from app.main import app

    app.include_router(router)
    return app
