"""Limits what the uploads of a process may take: how many run, and the memory for their bodies.

Few bodies are read at the same time. Otherwise each would get a part of the memory, and all would
be refused in the end. A client that sends slowly costs little, so others need not wait for it: it
loses its turn, and its body is read on.
"""

import asyncio
from collections.abc import AsyncIterator
from contextlib import ExitStack, asynccontextmanager

from starlette.types import Message, Receive

from app.errors import Unavailable

UPLOAD_BYTES = 1024 * 1024  # of a body that costs nothing
READ_AT_ONCE = 4
TURN_SECONDS = 1.0  # to wait for a turn, and to have it
PAUSE_SECONDS = 0.25  # without a byte, after which a turn ends
SILENCE_SECONDS = 5.0  # without a byte, after which an upload ends
TOO_MANY_UPLOADS = "Too many files are being uploaded. Try again in a moment."


class ClientSilent(Exception):
    """A client has begun an upload, and sends nothing more."""


class UploadBudget:
    """How many more uploads of this process may run, and the bytes that they may still take."""

    def __init__(self, uploads: int, spare_bytes: int) -> None:
        self.places = uploads
        self.spare_bytes = spare_bytes
        self._most_waiting = uploads
        self._waiting = 0
        self._turns = asyncio.Semaphore(READ_AT_ONCE)

    async def wait_for_turn(self) -> None:
        """Take a turn, or raise `Unavailable`.

        What cannot have its turn in time is refused at once. If many uploads waited, all of them
        would be refused at the same moment, and other requests would wait meanwhile.
        """
        if self.places <= 0 or self._waiting >= self._most_waiting:
            raise Unavailable(TOO_MANY_UPLOADS)
        self._waiting += 1
        try:
            async with asyncio.timeout(TURN_SECONDS):
                await self._turns.acquire()
        except TimeoutError:
            raise Unavailable(TOO_MANY_UPLOADS) from None
        finally:
            self._waiting -= 1

    def end_turn(self) -> None:
        self._turns.release()


class Upload:
    """What one body has taken from the budget, until its request has ended."""

    def __init__(self, budget: UploadBudget) -> None:
        self._budget = budget
        self._turn = ExitStack()
        self._taken_bytes = 0
        self._places = 0

    @asynccontextmanager
    async def turn(self) -> AsyncIterator[None]:
        """Read the body in this block. Afterwards, the upload has a place.

        Raises `Unavailable`. A client that sends slowly has no place meanwhile.
        """
        await self._budget.wait_for_turn()
        self._turn.callback(self._budget.end_turn)
        timer = asyncio.get_running_loop().call_later(TURN_SECONDS, self._turn.close)
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
        timer = asyncio.get_running_loop().call_later(PAUSE_SECONDS, self._turn.close)
        try:
            async with asyncio.timeout(SILENCE_SECONDS):
                return await receive()
        except TimeoutError:
            raise ClientSilent from None
        finally:
            timer.cancel()

    def grow_to(self, size: int) -> None:
        """Take what the body has beyond `UPLOAD_BYTES`, or raise `Unavailable`."""
        more = size - UPLOAD_BYTES - self._taken_bytes
        if more <= 0:
            return
        if more > self._budget.spare_bytes:
            raise Unavailable(TOO_MANY_UPLOADS)
        self._taken_bytes += more
        self._budget.spare_bytes -= more

    def end(self) -> None:
        self._budget.spare_bytes += self._taken_bytes
        self._budget.places += self._places

    def _check_places(self) -> None:
        if self._budget.places <= 0:
            raise Unavailable(TOO_MANY_UPLOADS)
