"""Reads new events once for all clients of this process, whenever there may be some.

The database is the truth. The invalidations that the cache receives from all processes only say
when to look, because such a message may be lost. So after each reconnection to Valkey, every second
while it is away, and now and then in any case, all topics are compared with the database.
"""

import asyncio
import time
from collections import defaultdict
from collections.abc import AsyncIterator, Iterable, Iterator, Sequence
from contextlib import asynccontextmanager, contextmanager, suppress

from app.infra.database.sessions import Database
from app.infra.events.catch_up import CatchUp
from app.infra.events.feed import Feed
from app.infra.events.reader import DATABASE_ERRORS, Reader, pause_after
from app.infra.events.settings import EventsSettings
from app.infra.events.topic import PAGE, Listener, Topic
from app.infra.observability.background import detached, in_background
from app.infra.observability.metrics import EVENT_LISTENERS, EVENTS_SENT
from app.infra.places import Places
from app.infra.resources import ProcessResources
from app.infra.shutdown import shutdown_event
from coherent_cache import Cache

POLL_SECONDS = 1.0  # between comparisons with the database, while Valkey is away
CHECK_SECONDS = 15.0  # and while it is not
# How long a client has to read the last event. A client that reads nothing must not delay a stop.
END_SECONDS = 1.0


class EventHub:
    """The topics of one process. They use one connection, and `CatchUp` its own few."""

    def __init__(self, settings: EventsSettings, database: Database, cache: Cache | None) -> None:
        self.settings = settings
        self.sent = 0  # events that the metrics lack
        self.is_ending = False  # the server shuts down
        self._places = Places(
            "events", "event streams", most=settings.listeners, per_client=settings.per_client
        )
        self._database = database
        self._cache = cache
        self._topics: dict[str, list[Topic]] = {}  # by their tags
        self._due: set[Topic] = set()
        self._compared_at = float("-inf")
        self._work = asyncio.Event()
        self._reader = Reader(database)
        self._catch_up = CatchUp(self._reader, self.has_ended)

    @asynccontextmanager
    async def running(self) -> AsyncIterator[None]:
        """Read events until the block is left, and end all streams when the server shuts down."""
        if self._cache is not None:
            self._cache.on_invalidated(self._on_invalidated)
        with shutdown_event() as shutdown:
            ending = detached(self._end(shutdown))
            try:
                async with in_background(self._run, "event streams"):
                    yield
            finally:
                ending.cancel()

    @contextmanager
    def listening(
        self, client: str, feed: Feed, key: int, *, newest: int, after: int
    ) -> Iterator[Listener]:
        """Listen while the block runs, or raise an error if there is no place left.

        The client has the events up to `after`. The database has shown those up to `newest`.
        """
        with self._places.take(client):
            topic = self._find(feed, key) or self._open(Topic(feed, key, newest))
            if newest > topic.position:
                self._make_due(topic)
            topic.listeners.add(listener := Listener(topic, after))
            try:
                yield listener
            finally:
                topic.listeners.discard(listener)
                if not topic.listeners:
                    self._close(topic)

    @asynccontextmanager
    async def sending(self, listener: Listener) -> AsyncIterator[None]:
        """Raise TimeoutError if the block is not left in time after the shutdown has begun."""
        async with asyncio.timeout(END_SECONDS if self.is_ending else None) as listener.limit:
            yield

    def has_ended(self, listener: Listener) -> bool:
        return self.is_ending or listener.has_left or not listener.topic.exists

    async def next_events(self, listener: Listener, until: float) -> list[bytes]:
        """Return the next events. There are none when the stream ends, or when the time comes."""
        while not self.has_ended(listener):
            found = listener.take()
            if found is None:
                found = await self._catch_up.next_events(listener, until)
                is_late = asyncio.get_running_loop().time() >= until
            else:
                is_late = not found and not await listener.wait(until)
            if found or is_late:
                return found
        return []

    def _find(self, feed: Feed, key: int) -> Topic | None:
        for topic in self._topics.get(feed.tag(key), ()):
            if topic.feed is feed and topic.key == key and topic.exists:
                return topic
        return None

    def _open(self, topic: Topic) -> Topic:
        """Add a topic, and read what was added since the caller looked."""
        self._topics.setdefault(topic.tag, []).append(topic)
        self._make_due(topic)
        return topic

    def _make_due(self, *topics: Topic) -> None:
        self._due.update(topics)
        self._work.set()

    def _close(self, topic: Topic) -> None:
        self._work.set()
        self._due.discard(topic)
        self._topics[topic.tag].remove(topic)
        if not self._topics[topic.tag]:
            del self._topics[topic.tag]

    def _on_invalidated(self, tags: Sequence[str] | None) -> None:
        if tags is None:
            self._compared_at = float("-inf")
            self._work.set()
            return
        for tag in tags:
            if topics := self._topics.get(tag):
                self._make_due(*topics)

    async def _end(self, shutdown: asyncio.Event) -> None:
        await shutdown.wait()
        self.is_ending = True
        for topic in self._all():
            for listener in topic.listeners:
                listener.end()
                listener.end_within(END_SECONDS)

    def _all(self) -> list[Topic]:
        return [topic for topics in self._topics.values() for topic in topics]

    async def _run(self) -> None:
        while True:
            await self._wait_for_work()
            try:
                if self._is_comparison_due():
                    await self._compare_all()
                for topic in tuple(self._due):
                    await self._refresh(topic)
            except DATABASE_ERRORS as error:
                await asyncio.sleep(pause_after(error))

    def _measure(self) -> None:
        EVENT_LISTENERS.set(self._places.taken)
        EVENTS_SENT.inc(self.sent)
        self.sent = 0

    async def _wait_for_work(self) -> None:
        self._measure()  # once a second while there are topics, and after the last one
        if not self._due:
            with suppress(TimeoutError):
                async with asyncio.timeout(POLL_SECONDS if self._topics else None):
                    await self._work.wait()
        self._work.clear()

    def _is_comparison_due(self) -> bool:
        hears = self._cache is not None and self._cache.hears_invalidations
        seconds = CHECK_SECONDS if hears else POLL_SECONDS
        return time.monotonic() - self._compared_at >= seconds

    async def _refresh(self, topic: Topic) -> None:
        """Read the events that follow. If there are none, the key or an event has been deleted."""
        self._due.discard(topic)  # first: what is added meanwhile makes it due again
        started = time.monotonic()
        try:
            frames = await self._reader.read(topic, topic.position)
        except BaseException:
            self._due.add(topic)
            raise
        topic.add(frames)
        if len(frames) == PAGE:
            self._due.add(topic)
        elif not frames:
            topic.forget_read_before(started)
            await self._compare([topic])

    async def _compare_all(self) -> None:
        self._compared_at = time.monotonic()  # first: a reconnection meanwhile asks for another one
        try:
            await self._compare(self._all())
        except BaseException:
            self._compared_at = float("-inf")
            raise

    async def _compare(self, topics: Iterable[Topic]) -> None:
        """Find topics that are behind the database, and those whose key does not exist any more."""
        by_feed: defaultdict[Feed, list[Topic]] = defaultdict(list)
        for topic in topics:
            by_feed[topic.feed].append(topic)
        for feed, some in by_feed.items():
            async with self._database.read() as session:
                newest = await feed.newest(session, [topic.key for topic in some])
            for topic in some:
                topic.forget_old()
                if topic.key not in newest:
                    topic.end()
                elif newest[topic.key] > topic.position:
                    self._due.add(topic)


@asynccontextmanager
async def open_event_hub(resources: ProcessResources) -> AsyncIterator[EventHub]:
    """Open the hub of a process that serves requests."""
    settings = resources.settings[EventsSettings]
    hub = EventHub(settings, resources.database, resources.cache)
    async with hub.running():
        yield hub
