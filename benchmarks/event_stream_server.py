"""The service for benchmarks/event_stream.py, with a stream of FastAPI's own class beside it."""

import asyncio
import time
from collections.abc import AsyncIterable

from fastapi.sse import EventSourceResponse, ServerSentEvent

from app.features.comments.schemas import CommentRead
from app.main import app

QUEUES: set[asyncio.Queue[CommentRead]] = set()


@app.get("/benchmarks/stream", response_class=EventSourceResponse)
async def stream() -> AsyncIterable[ServerSentEvent]:
    """Send each comment. Every client has a queue."""
    queue: asyncio.Queue[CommentRead] = asyncio.Queue()
    QUEUES.add(queue)
    try:
        while True:
            comment = await queue.get()
            yield ServerSentEvent(data=comment, event="comment", id=str(comment.id))
    finally:
        QUEUES.discard(queue)


@app.post("/benchmarks/comments")
async def publish(comment: CommentRead) -> None:
    """Send a comment to the clients of `stream`."""
    for queue in QUEUES:
        queue.put_nowait(comment)


@app.get("/benchmarks/cpu")
async def cpu() -> float:
    """Return the CPU time of this process in seconds."""
    return time.process_time()
