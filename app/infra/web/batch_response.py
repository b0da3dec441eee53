"""A long response that is sent in batches. It ends visibly incomplete if it cannot be completed.

It ends when the client leaves or does not read, when the database fails, and some time after the
server begins to shut down. HTTP has no other sign for that than closing the connection before the
last chunk.
"""

import asyncio
from collections.abc import AsyncGenerator, Mapping
from contextlib import aclosing
from dataclasses import dataclass

from anyio.to_thread import run_sync
from sqlalchemy.exc import DBAPIError
from starlette.requests import ClientDisconnect
from starlette.responses import StreamingResponse
from starlette.types import Message, Receive, Scope, Send

from app.errors import Unavailable
from app.infra.database.error_mapping import describe
from app.infra.observability.request_context import request_context
from app.infra.web.content_codings import Encoder
from app.infra.web.server_error import ClientTooSlow, ResponseCutOff

PIECE_BYTES = 128 * 1024

Batches = AsyncGenerator[memoryview, None]


@dataclass(frozen=True, slots=True)
class BatchLimits:
    """A client has to read a piece in `send_seconds`.

    After `shutdown` is set, a response may go on for `grace_seconds`, and no other one may begin.
    """

    shutdown: asyncio.Event
    grace_seconds: float
    send_seconds: float

    def check_shutdown(self) -> None:
        """Raise `Unavailable` after the shutdown has begun."""
        if self.shutdown.is_set():
            raise Unavailable("The server is shutting down.")


class BatchResponse(StreamingResponse):
    """Sends what `batches` yields. It is closed in any case, and holds nothing meanwhile.

    With an encoder, each batch is compressed in a thread, and can be decompressed as soon as it
    has arrived.
    """

    def __init__(
        self,
        batches: Batches,
        limits: BatchLimits,
        *,
        headers: Mapping[str, str],
        media_type: str,
        status_code: int = 200,
        encoder: Encoder | None = None,
    ) -> None:
        super().__init__(batches, status_code, headers, media_type)
        self._batches, self._limits, self._encoder = batches, limits, encoder

    async def __call__(self, _scope: Scope, receive: Receive, send: Send) -> None:
        if (current := request_context.get()) is not None:
            current.has_place = True
            current.stop_clock()  # how fast the client reads is not latency
        async with asyncio.TaskGroup() as group:
            sending = group.create_task(self._send(send))
            leaving = group.create_task(self.listen_for_disconnect(receive))
            stopping = group.create_task(self._wait_for_the_end())
            tasks = sending, leaving, stopping
            await asyncio.wait(tasks, return_when=asyncio.FIRST_COMPLETED)
            for task in tasks:
                task.cancel()
        if not sending.cancelled():
            if error := sending.result():
                raise error
        elif leaving.cancelled():
            raise ResponseCutOff("the server shuts down")
        else:
            raise ClientDisconnect

    async def _wait_for_the_end(self) -> None:
        await self._limits.shutdown.wait()
        await asyncio.sleep(self._limits.grace_seconds)

    async def _send(self, send: Send) -> Exception | None:
        """Send everything. Return the error if the response cannot be completed."""
        start = {
            "type": "http.response.start",
            "status": self.status_code,
            "headers": self.raw_headers,
        }
        try:
            async with aclosing(self._batches):
                await self._send_in_time(send, start)
                await self._send_batches(send)
        except (ResponseCutOff, ClientDisconnect) as error:
            return error
        except Unavailable as error:
            return ResponseCutOff(error.detail)
        except DBAPIError as error:
            return ResponseCutOff(describe(error))
        return None

    async def _send_batches(self, send: Send) -> None:
        encoder, end = self._encoder, b""
        async for batch in self._batches:
            data: bytes | memoryview = batch
            if encoder is not None:
                data = await run_sync(encoder.encode, batch)
            for start in range(0, len(data), PIECE_BYTES):
                await self._send_piece(send, bytes(data[start : start + PIECE_BYTES]), more=True)
                # The client may read faster than this sends. Others need the event loop as well,
                # and the next batch has to be asked for.
                await asyncio.sleep(0)
            del batch, data  # before the next one is taken
        if encoder is not None:
            end = encoder.finish()
        await self._send_piece(send, end, more=False)

    async def _send_piece(self, send: Send, body: bytes, *, more: bool) -> None:
        message = {"type": "http.response.body", "body": body, "more_body": more}
        await self._send_in_time(send, message)

    async def _send_in_time(self, send: Send, message: Message) -> None:
        try:
            async with asyncio.timeout(self._limits.send_seconds):
                await send(message)
        except TimeoutError:
            raise ClientTooSlow from None
        except OSError:  # some servers raise it when the client has disconnected
            raise ClientDisconnect from None
