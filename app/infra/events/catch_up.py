"""Reads events that a topic no longer has, for one client at its own pace."""

import asyncio
from collections.abc import Callable, Sequence

from app.infra.events.reader import DATABASE_ERRORS, Reader, pause_after
from app.infra.events.topic import PAGE, Frame, Listener

CATCHING_UP = 2  # how many clients read at the same time
MAX_BYTES = 128 * 1024  # for a client at once, unless one event is larger


class CatchUp:
    """The clients of a process that take turns to read. Nobody holds a turn while it waits."""

    def __init__(self, reader: Reader, has_ended: Callable[[Listener], bool]) -> None:
        self._reader = reader
        self._has_ended = has_ended
        self._turns = asyncio.Semaphore(CATCHING_UP)
        self._retry_at = float("-inf")  # for all clients, after a read that failed

    async def next_events(self, listener: Listener, until: float) -> list[bytes]:
        """Return the next events, or none if the time comes or the database is away.

        It returns none, too, when the stream ends while the client waits for its turn.
        """
        try:
            async with asyncio.timeout_at(until) as listener.turn:
                await self._turns.acquire()
        except TimeoutError:
            return []
        finally:
            listener.turn = None
        try:
            # While it waited, another client may have read what this one needs. So clients that
            # reconnect together read the database a few times, and not once each.
            if self._has_ended(listener):
                return []
            if (found := listener.take()) is not None:
                return found
            now = asyncio.get_running_loop().time
            if now() >= self._retry_at:
                try:
                    return await self._read(listener)
                except DATABASE_ERRORS as error:
                    self._retry_at = now() + pause_after(error)
        finally:
            self._turns.release()
        await listener.wait(min(until, self._retry_at))
        return []

    async def _read(self, listener: Listener) -> list[bytes]:
        topic, after, most = listener.topic, listener.position, listener.most
        known = topic.position  # the read will show all events up to here
        frames = await self._reader.read(topic, after, most)
        kept = _beginning(frames)
        is_cut = len(kept) < len(frames)
        # Events that do not fit were read in vain, so few more are asked for than fitted.
        listener.most = len(kept) if is_cut else min(PAGE, most + most // 8 + 1)
        if is_cut or len(frames) == most:
            listener.position = kept[-1].id
        else:
            listener.position = max(known, frames[-1].id if frames else 0)
            topic.add_earlier(after, frames, known)
        return [frame.content for frame in kept]


def _beginning(frames: Sequence[Frame]) -> Sequence[Frame]:
    """Return as many frames as a client gets at once, at least one of them."""
    size = 0
    for number, frame in enumerate(frames):
        size += len(frame.content)
        if number and size > MAX_BYTES:
            return frames[:number]
    return frames
