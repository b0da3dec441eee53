"""Answers with an export: its format, its compression, and how many may run at a time."""

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from math import ceil

from starlette.requests import Request

from app.errors import NotAcceptable, RateLimited, Unavailable
from app.infra.database.export import Export, ExportFormat, ExportReader
from app.infra.observability.metrics import REFUSED
from app.infra.resources import ProcessResources
from app.infra.web.batch_response import Batches, BatchLimits, BatchResponse
from app.infra.web.content_codings import ENCODERS
from app.infra.web.head_requests import is_head_request
from app.infra.web.negotiation import preferred_encoding, preferred_type

JSON_LINES, NDJSON, CSV = "application/jsonl", "application/x-ndjson", "text/csv"
FORMATS = {
    JSON_LINES: ExportFormat.JSON_LINES,
    NDJSON: ExportFormat.JSON_LINES,
    CSV: ExportFormat.CSV,
}
EXTENSIONS = {ExportFormat.JSON_LINES: "jsonl", ExportFormat.CSV: "csv"}
# An export whose client has just left gives its place back within milliseconds.
PLACE_SECONDS = 1.0


class Exports:
    """The exports that run in this process. None begins after the shutdown of its server has."""

    def __init__(self, limit: int, limits: BatchLimits) -> None:
        self.limits = limits
        self._limit = limit
        self._clients: set[str] = set()
        self._place_is_free = asyncio.Event()

    @asynccontextmanager
    async def place(self, client: str) -> AsyncIterator[None]:
        """Hold one of the places, or raise `Unavailable`, or `RateLimited` if the client has one.

        One client would otherwise take all places by reading slowly.
        """
        self.limits.check_shutdown()
        await self._wait_for_place(client)
        self._clients.add(client)
        try:
            yield
        finally:
            self._clients.remove(client)
            self._place_is_free.set()  # for those who wait now
            self._place_is_free = asyncio.Event()

    async def _wait_for_place(self, client: str) -> None:
        try:
            async with asyncio.timeout(PLACE_SECONDS):
                while client in self._clients or len(self._clients) >= self._limit:
                    await self._place_is_free.wait()
        except TimeoutError:
            REFUSED.labels("exports").inc()
            if client in self._clients:
                raise RateLimited(ceil(self.limits.send_seconds)) from None
            raise Unavailable("This process runs as many exports as it may.") from None


class Exporter:
    """Exports to the client of one request, which holds a place in `exports`."""

    def __init__(
        self, request: Request, resources: ProcessResources, exports: Exports, cursor: str | None
    ) -> None:
        self._request, self._resources = request, resources
        self._exports, self._cursor = exports, cursor

    async def respond(self, export: Export, /, **filters: object) -> BatchResponse:
        """Return the rows of an export as a response. Its first batch has been read."""
        media_type, coding = self._negotiated()
        form, cursor, resources = FORMATS[media_type], self._cursor, self._resources
        reader = ExportReader(export, form, cursor, filters, resources.database, resources.replica)
        headers = {
            "Content-Disposition": f'attachment; filename="{export.name}.{EXTENSIONS[form]}"',
            "Vary": "Accept, Accept-Encoding",
            "X-Accel-Buffering": "no",  # a proxy would hide from us how fast the client reads
        }
        if form is ExportFormat.CSV:
            header = "present" if cursor is None else "absent"
            media_type = f"{CSV}; charset=utf-8; header={header}"
        encoder = None
        if coding in ENCODERS:
            encoder = ENCODERS[coding]()
            headers["Content-Encoding"] = coding
        first = None if is_head_request() else await reader.read()
        return BatchResponse(
            _batches(first, reader),
            self._exports.limits,
            encoder=encoder,
            headers=headers,
            media_type=media_type,
        )

    def _negotiated(self) -> tuple[str, str]:
        """Return the media type and the content coding that the client prefers."""
        media_type = preferred_type(self._header("accept"), list(FORMATS))
        if media_type is None:
            raise NotAcceptable(f"An export is sent as {', '.join(FORMATS)}.")
        coding = preferred_encoding(self._header("accept-encoding"), list(ENCODERS))
        if coding is None:
            raise NotAcceptable(f"An export is sent as {', '.join(ENCODERS)}, or uncompressed.")
        return media_type, coding

    def _header(self, name: str) -> str | None:
        return ",".join(self._request.headers.getlist(name)) or None


async def _batches(batch: bytearray | None, reader: ExportReader) -> Batches:
    """Yield the batches. Each is read while the one before it is being sent."""
    while batch is not None:
        reading = asyncio.create_task(reader.read())  # noqa: TID251 - it is part of the request
        try:
            yield memoryview(batch)
            batch = await reading
        finally:
            reading.cancel()
            await asyncio.gather(reading, return_exceptions=True)
