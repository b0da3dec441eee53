"""The readers of a history."""

import asyncio
import random
from collections import Counter, defaultdict
from collections.abc import Sequence
from dataclasses import dataclass, field
from itertools import islice
from typing import Any

from dev.address import Address
from tests.faults.ledger import Finding, Ledger, Place, place_of
from tests.faults.wire import Reply, Wire

MEMORY = "HIT-L1"
HALF, HOT = 0.5, 12
MOST_BEHIND_SECONDS = 0.5


@dataclass
class Seen:
    """What all readers saw."""

    reads: Counter[str] = field(default_factory=Counter)  # by X-Cache
    kinds: Counter[str] = field(default_factory=Counter)
    statuses: Counter[int] = field(default_factory=Counter)
    findings: defaultdict[str, list[Finding]] = field(default_factory=lambda: defaultdict(list))
    examples: list[str] = field(default_factory=list)
    slowest: float = 0.0

    def note(self, kind: str, reply: Reply, findings: Sequence[Finding]) -> None:
        """Count a read, and keep the worst of its findings."""
        self.kinds[kind] += 1
        self.reads[reply.source] += 1
        if findings:
            worst = max(findings, key=lambda finding: (not finding.is_late, finding.age))
            self.findings[reply.source].append(worst)
            if len(self.examples) < 20:
                self.examples.append(f"{reply.source} {kind} {worst} at {reply.sent_at:.3f}")

    @property
    def total(self) -> int:
        """How many reads were judged."""
        return self.reads.total()


class Reader:
    """Reads what the writers change. Half of its reads skip the memory of the worker."""

    def __init__(self, address: Address, ledger: Ledger, seen: Seen, rate: float) -> None:
        self._rate = rate
        self._wire = Wire(address)
        self._ledger = ledger
        self._seen = seen
        self._deeper: tuple[str, Place] | None = None

    async def work(self) -> None:
        """Read at the given rate, or as fast as responses arrive."""
        loop = asyncio.get_running_loop()
        next_at = loop.time() + random.random() / self._rate
        kinds = [
            *[self._item] * 8,
            *[self._comments] * 3,
            *[self._user] * 3,
            *[self._first] * 3,
            *[self._of_author] * 2,
            *[self._deep] * 2,
            self._unborn,
        ]
        try:
            while True:
                await asyncio.sleep(max(0.0, next_at - loop.time()))
                next_at = max(next_at, loop.time() - MOST_BEHIND_SECONDS) + 1 / self._rate
                await random.choice(kinds)()
        finally:
            self._wire.close()

    async def _item(self) -> None:
        await self._read_item("item", self._post_id())

    async def _unborn(self) -> None:
        """Read a post that is created next, because a 404 is cached too."""
        newest = next(reversed(self._ledger.by_id))
        await self._read_item("item to come", newest + random.randint(1, 3))

    async def _read_item(self, kind: str, post_id: int) -> None:
        reply = await self._get(f"/v1/posts/{post_id}")
        if reply.status in (200, 404):
            self._seen.note(kind, reply, self._ledger.item(post_id, _body(reply), reply.sent_at))

    async def _comments(self) -> None:
        post_id = self._post_id()
        reply = await self._get(f"/v1/posts/{post_id}/comments")
        if reply.status in (200, 404):
            found = self._ledger.comments(post_id, _body(reply), reply.sent_at)
            self._seen.note("comments", reply, found)

    async def _user(self) -> None:
        reply = await self._get(f"/v1/users/{random.choice(list(self._ledger.names))}")
        if reply.status == 200:
            self._seen.note("user", reply, self._ledger.user(reply.json(), reply.sent_at))

    async def _first(self) -> None:
        limit = random.choice(("", "?limit=5"))
        page = await self._page("first page", f"/v1/posts{limit}")
        if page and limit and page["next"] and (not self._deeper or random.random() < 0.05):
            self._deeper = page["next"], place_of(page["items"][-1])

    async def _of_author(self) -> None:
        author = random.choice(list(self._ledger.names))
        await self._page("author's page", f"/v1/posts?author_id={author}", author=author)

    async def _deep(self) -> None:
        """Follow an older cursor, before and after its page needs no tag for new posts."""
        if self._deeper is None:
            return
        cursor, after = self._deeper
        page = await self._page("deeper page", f"/v1/posts?limit=5&cursor={cursor}", after=after)
        if page and page["next"] and random.random() < HALF / 10:
            self._deeper = page["next"], place_of(page["items"][-1])

    async def _page(
        self, kind: str, path: str, *, after: Place | None = None, author: int | None = None
    ) -> dict[str, Any] | None:
        reply = await self._get(path)
        if reply.status != 200:
            return None
        page: dict[str, Any] = reply.json()
        found = self._ledger.page(page, reply.sent_at, after=after, author=author)
        self._seen.note(kind, reply, found)
        return page

    def _post_id(self) -> int:
        """Choose one of the newest posts, or sometimes one that may be deleted."""
        if random.random() < HALF / 5:
            return random.choice([*islice(reversed(self._ledger.by_id), HOT)])
        (_, post_id), _, _ = random.choice(self._ledger.places[-HOT:])
        return post_id

    async def _get(self, path: str) -> Reply:
        reply = await self._wire.get(path, skip_memory=random.random() < HALF)
        self._seen.statuses[reply.status] += 1
        self._seen.slowest = max(self._seen.slowest, reply.seconds)
        return reply


def _body(reply: Reply) -> dict[str, Any] | None:
    return reply.json() if reply.status == 200 else None
