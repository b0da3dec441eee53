"""Limits the memory for the bodies of a process, and how many uploads run.

All bodies share a budget. The first `FREE_BYTES` of each do not count. When the budget is used up,
the oldest body is cut off if it began at least `SLOW_SECONDS` before the newest, so that slow
clients cannot block others. Otherwise the newest is refused.

Few uploads are read at the same time. Otherwise each would get a part of the memory, and all would
be refused in the end. A client that sends slowly costs little, so others need not wait for it: it
loses its turn, and its body is read on.
"""

import asyncio
import time
from collections.abc import AsyncIterator
from contextlib import ExitStack, asynccontextmanager

from starlette.types import Message, Receive

from app.errors import AppError, Unavailable
from app.infra.web.upload_queue import TOO_MANY_UPLOADS

# Of each body, these bytes cost nothing. The server keeps as many for a body that nobody reads.
FREE_BYTES = 64 * 1024
READ_AT_ONCE = 4
TURN_SECONDS = 1.0  # to wait for a turn, and to have it
PAUSE_SECONDS = 0.25  # without a byte, after which a turn ends
SILENCE_SECONDS = 5.0  # without a byte, after which an upload ends
SLOW_SECONDS = 1.0
NO_MEMORY = "Too many large bodies are being received. Try again in a moment."


class ClientSilent(AppError):
    """A client has begun an upload, and sends nothing more."""

    status = 408
    code = "request_timeout"


class BodyBudget:
    """How many more uploads of this process may run, and the bytes that bodies may still take."""

    def __init__(self, uploads: int, spare_bytes: int) -> None:
        self.places = uploads
        self.spare_bytes = spare_bytes
        self.receiving: dict[Body, float] = {}  # since when they need more than is free
        self._turns = asyncio.Semaphore(READ_AT_ONCE)

    async def wait_for_turn(self) -> None:
        """Take a turn, or raise `Unavailable`. `UploadQueueMiddleware` limits how many wait."""
        if self.places <= 0:
            raise Unavailable(TOO_MANY_UPLOADS)
        try:
            async with asyncio.timeout(TURN_SECONDS):
                await self._turns.acquire()
        except TimeoutError:
            raise Unavailable(TOO_MANY_UPLOADS) from None

    def end_turn(self) -> None:
        self._turns.release()

    def take(self, wanted_bytes: int, body: "Body") -> None:
        """Take bytes for a body, or raise `Unavailable` if slow ones cannot give up as many."""
        began_at = self.receiving.setdefault(body, time.monotonic())
        while wanted_bytes > self.spare_bytes:
            oldest = next(iter(self.receiving))
            if oldest is body or self.receiving[oldest] > began_at - SLOW_SECONDS:
                raise Unavailable(NO_MEMORY)
            oldest.cut_off()
        self.spare_bytes -= wanted_bytes


class Body:
    """What one body has taken from the budget, until its request has ended."""

    def __init__(self, budget: BodyBudget) -> None:
        self._budget = budget
        self._turn = ExitStack()
        self._loop = asyncio.get_running_loop()
        self._limit = asyncio.timeout(None)  # it ends when the body is cut off
        self._taken_bytes = 0
        self._places = 0

    @asynccontextmanager
    async def received(self) -> AsyncIterator[None]:
        """Receive the body in this block. Raises `Unavailable` if it is cut off."""
        try:
            async with self._limit:
                yield
        except TimeoutError:
            raise Unavailable(NO_MEMORY) from None
        finally:
            self._budget.receiving.pop(self, None)

    @asynccontextmanager
    async def turn(self) -> AsyncIterator[None]:
        """Receive an upload in this block. Afterwards, it has a place.

        Raises `Unavailable`. A client that sends slowly has no place meanwhile.
        """
        await self._budget.wait_for_turn()
        self._turn.callback(self._budget.end_turn)
        timer = self._loop.call_later(TURN_SECONDS, self._turn.close)
        try:
            self._check_places()
            yield
            self._check_places()
        finally:
            timer.cancel()
            self._turn.close()
        self._budget.places -= 1
        self._places = 1

    async def next_message(self, receive: Receive) -> Message:
        """Return what the client sends next, or raise `ClientSilent`."""
        timer = self._loop.call_later(PAUSE_SECONDS, self._turn.close)
        try:
            async with asyncio.timeout(SILENCE_SECONDS):
                return await receive()
        except TimeoutError:
            raise ClientSilent("The client stopped sending the file.") from None
        finally:
            timer.cancel()

    def grow_to(self, size: int) -> None:
        """Take what the body has beyond `FREE_BYTES`, or raise `Unavailable`."""
        more = size - FREE_BYTES - self._taken_bytes
        if more > 0:
            self._budget.take(more, self)
            self._taken_bytes += more

    def cut_off(self) -> None:
        """Give the bytes back. The block of `received` ends as soon as its task runs."""
        self._limit.reschedule(self._loop.time())
        del self._budget.receiving[self]
        self.end()

    def end(self) -> None:
        """Give everything back."""
        self._budget.spare_bytes += self._taken_bytes
        self._budget.places += self._places
        self._taken_bytes = self._places = 0

    def _check_places(self) -> None:
        if self._budget.places <= 0:
            raise Unavailable(TOO_MANY_UPLOADS)
