"""Scrapes /metrics while a case runs. Prometheus takes a counter that falls for a restart."""

import asyncio
import re
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager, suppress
from dataclasses import dataclass, field
from pathlib import Path

import httpx2

SERIES = re.compile(r"^(\w+_(?:total|count|sum|bucket)(?:\{.*\})?) (\S+)$", re.MULTILINE)
REQUESTS = re.compile(r'^http_request_duration_seconds_count\{.*route="([^"]+)"')
BETWEEN_SECONDS = 0.02
# After a reload, the counters and the histograms of the replaced workers stay in the files of their
# slots, which the next workers use.
FILES_OF_FREE_SLOTS = 4


@dataclass
class Counters:
    """The counters of all workers, and the folder that contains their files."""

    client: httpx2.AsyncClient
    folder: Path = Path()
    scrapes: int = 0
    _fallen: set[str] = field(default_factory=set)
    _files_at_first: int = 0
    _files_at_last: int = 0

    @asynccontextmanager
    async def watched(self) -> AsyncIterator[None]:
        """Scrape again and again, and record the counters that fall between two scrapes."""
        self._files_at_first = self._files()
        task = asyncio.create_task(self._watch())
        try:
            yield
        finally:
            task.cancel()
            self._files_at_last = self._files()

    async def scrape(self) -> dict[str, float]:
        """Return every time series of every counter and histogram."""
        text = (await self.client.get("/metrics")).raise_for_status().text
        return {series: float(value) for series, value in SERIES.findall(text)}

    async def requests(self, *prefixes: str) -> int:
        """Return how many requests were counted for routes that begin with one of `prefixes`."""
        counted = 0.0
        for series, value in (await self.scrape()).items():
            route = REQUESTS.match(series)
            counted += value * (route is not None and route[1].startswith(prefixes))
        return int(counted)

    @property
    def figure(self) -> str:
        files = f"{self._files_at_first} metrics files at first, {self._files_at_last} at the end"
        return f"{self.scrapes} scrapes, no counter fell; {files}"

    def broken(self, counted: int, answered: int, cut: int) -> list[str]:
        """Return the promises that were not kept. `cut` requests may be counted or not."""
        wrong = abs(counted - answered) > cut
        grown = self._files_at_last > self._files_at_first + FILES_OF_FREE_SLOTS
        return [
            *[f"{len(self._fallen)} counters fell, for example `{min(self._fallen, default='')}`"]
            * bool(self._fallen),
            *[f"{counted} of {answered} responses counted"] * wrong,
            *[f"{self._files_at_first} metrics files at first, {self._files_at_last} at the end"]
            * grown,
        ]

    def _files(self) -> int:
        return len(list(self.folder.glob("*.db")))

    async def _watch(self) -> None:
        before: dict[str, float] = {}
        while True:
            with suppress(httpx2.TransportError):  # the scrape itself was cut off
                now = await self.scrape()
                self._fallen |= {name for name in before if now.get(name, 0.0) < before[name]}
                before = now
                self.scrapes += 1
            await asyncio.sleep(BETWEEN_SECONDS)
