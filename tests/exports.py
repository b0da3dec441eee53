"""Reads exports as clients do, and counts what they hold meanwhile."""

import csv
import io
import json
import zlib
from typing import Any

import httpx2
import zstandard
from sqlalchemy import text

from app.infra.resources import ProcessResources

CODINGS = ("identity", "gzip", "zstd")
# Other connections of this service to this database that do something, or hold a snapshot.
BUSY = text(
    "SELECT count(*) FROM pg_stat_activity WHERE datname = current_database() "
    "AND pid <> pg_backend_pid() AND backend_type = 'client backend' AND state <> 'idle'"
)


def decompressed(body: bytes, coding: str) -> bytes:
    """Decompress as much as a body contains. It may have been cut off."""
    if coding == "gzip":
        return zlib.decompressobj(wbits=31).decompress(body)
    if coding == "zstd":
        return zstandard.ZstdDecompressor().decompressobj().decompress(body)
    return body


def body_of(response: httpx2.Response) -> bytes:
    """Return the body. The client itself can decompress gzip, but not zstd."""
    assert response.status_code == 200, response.text
    coding = response.headers.get("content-encoding", "identity")
    return decompressed(response.content, coding if coding == "zstd" else "identity")


def lines_of(body: bytes | bytearray) -> list[dict[str, Any]]:
    """Parse all complete lines of JSON Lines. Only the line feed ends a line."""
    return [json.loads(line) for line in body.split(b"\n")[:-1]]


def rows_of(body: bytes, names: list[str] | None = None) -> list[dict[str, str]]:
    """Parse all complete rows of CSV: those that have all columns, and a line feed at the end.

    Without `names`, the first row has them.
    """
    complete = body[: body.rfind(b"\n") + 1].decode()
    rows = list(csv.reader(io.StringIO(complete, newline="")))
    if names is None:
        names, rows = (rows[0], rows[1:]) if rows else ([], [])
    return [dict(zip(names, row, strict=True)) for row in rows if len(row) == len(names)]


async def connections_in_use(resources: ProcessResources) -> tuple[int, int]:
    """Return how many connections are taken from the pool, and how many PostgreSQL sees busy."""
    taken: int = resources.database.engine.pool.checkedout()  # type: ignore[attr-defined]
    async with resources.database.read() as session:
        return taken, int((await session.execute(BUSY)).scalar_one())
