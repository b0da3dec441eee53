"""The latest events of one key, encoded once for all clients of this process."""

import asyncio
import time
from collections import deque
from collections.abc import Sequence
from contextlib import suppress
from typing import NamedTuple

from app.infra.events.feed import Event, Feed

MAX_FRAMES, MAX_BYTES = 200, 256 * 1024
PAGE = 100  # events in one read
KEPT_SECONDS = 2.0  # as long as the cache may show what has been deleted


class Frame(NamedTuple):
    """An event as it is sent. `read_at` is when its read began."""

    id: int
    content: bytes
    read_at: float


def frames_of(feed: Feed, events: Sequence[Event], read_at: float) -> list[Frame]:
    name = feed.event.encode()
    return [
        Frame(found.id, b"event: %b\nid: %d\ndata: %b\n\n" % (name, found.id, found.data), read_at)
        for found in events
    ]


class Topic:
    """All events after `floor` and up to `position`, and the clients that listen.

    There is no queue for each client: what a slow client has not read yet is kept here for all of
    them together, for two seconds. An older event may have been deleted, or its author may have a
    new name, so a client that still needs it reads the database.
    """

    def __init__(self, feed: Feed, key: int, position: int) -> None:
        self.feed = feed
        self.key = key
        self.tag = feed.tag(key)
        self.floor = self.position = position
        self.exists = True
        self.listeners: set[Listener] = set()
        self._frames: deque[Frame] = deque()
        self._bytes = 0

    def add(self, frames: Sequence[Frame]) -> None:
        """Add the events that follow, and wake the clients."""
        if frames:
            self._frames.extend(frames)
            self._bytes += sum(len(frame.content) for frame in frames)
            self.position = frames[-1].id
            while len(self._frames) > MAX_FRAMES or self._bytes > MAX_BYTES:
                self._forget_oldest()
            self.wake()

    def add_earlier(self, after: int, frames: Sequence[Frame], known: int) -> None:
        """Add what a client has read from before the floor, because others may need it too.

        `frames` are all events after `after` and up to `known`, and may be newer than those here.
        """
        newer = [frame for frame in self._frames if frame.id > known]
        oldest = newer[0].read_at if newer else float("inf")  # no frame is older than one before it
        read = [
            frame._replace(read_at=min(frame.read_at, oldest))
            for frame in frames
            if frame.id <= known
        ]
        size = sum(len(frame.content) for frame in read + newer)
        has_room = len(read) + len(newer) <= MAX_FRAMES and size <= MAX_BYTES
        if after < self.floor <= known and has_room:
            self._frames = deque(read + newer)
            self._bytes = size
            self.floor = after

    def after(self, position: int) -> list[bytes] | None:
        """Return the events after an id, or None if some of them are in the database alone."""
        self.forget_old()
        if position < self.floor:
            return None
        found = []
        for frame in reversed(self._frames):
            if frame.id <= position:
                break
            found.append(frame.content)
        found.reverse()
        return found

    def end(self) -> None:
        """Note that the key has been deleted."""
        self.exists = False
        for listener in self.listeners:
            listener.end()

    def wake(self) -> None:
        for listener in self.listeners:
            listener.wake()

    def forget_old(self) -> None:
        self.forget_read_before(time.monotonic() - KEPT_SECONDS)

    def forget_read_before(self, when: float) -> None:
        while self._frames and self._frames[0].read_at < when:
            self._forget_oldest()

    def _forget_oldest(self) -> None:
        oldest = self._frames.popleft()
        self._bytes -= len(oldest.content)
        self.floor = oldest.id


class Listener:
    """A client. `position` is the id of the last event that it was given.

    `most` is how many events are read for it at once. `limit` is set while events are being sent,
    and `turn` while it waits for its turn to read.
    """

    def __init__(self, topic: Topic, position: int) -> None:
        self.topic = topic
        self.position = position
        self.has_left = False
        self.most = PAGE
        self.limit: asyncio.Timeout | None = None
        self.turn: asyncio.Timeout | None = None
        self._woken = asyncio.Event()

    def wake(self) -> None:
        self._woken.set()

    def end(self) -> None:
        """Wake it because its stream ends, even if it waits for its turn."""
        self.wake()
        if self.turn is not None and not self.turn.expired():
            self.turn.reschedule(asyncio.get_running_loop().time())

    def leave(self) -> None:
        """Note that the client has disconnected."""
        self.has_left = True
        self.end()

    def end_within(self, seconds: float) -> None:
        """Give the client `seconds` to read the event that is being sent."""
        if self.limit is not None:
            self.limit.reschedule(asyncio.get_running_loop().time() + seconds)

    def take(self) -> list[bytes] | None:
        """Return the events that the client does not have, or None if the topic lacks some."""
        self._woken.clear()
        found = self.topic.after(self.position)
        if found:
            self.position = self.topic.position
        return found

    async def wait(self, until: float) -> bool:
        """Wait until it is woken. Return False if the time comes first."""
        with suppress(TimeoutError):
            async with asyncio.timeout_at(until):
                await self._woken.wait()
        return self._woken.is_set()
