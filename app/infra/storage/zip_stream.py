"""Writes a zip file to the store piece by piece, so that its size does not matter."""

import hashlib
import time
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from io import RawIOBase
from zipfile import ZIP_DEFLATED, ZipFile, ZipInfo

from anyio.to_thread import run_sync
from typing_extensions import Buffer

from app.infra.storage.store import Write

READABLE = 0o644 << 16
Append = Callable[[bytes], Awaitable[None]]


class ZipStream:
    """Compresses in threads, because that would block the event loop.

    `close` writes the directory of the zip, without which it is damaged.
    """

    def __init__(self, write: Write) -> None:
        self._write = write
        self._pieces = _Pieces()
        self._zip = ZipFile(self._pieces, "w")
        self._digest = hashlib.sha256()

    @property
    def sha256(self) -> str:
        """The hash of what has been written."""
        return self._digest.hexdigest()

    @asynccontextmanager
    async def file(self, name: str) -> AsyncIterator[Append]:
        """Yield a function that appends to a new file of the zip. One file is open at a time."""
        info = ZipInfo(name, time.gmtime()[:6])
        info.compress_type, info.external_attr = ZIP_DEFLATED, READABLE
        opened = self._zip.open(info, "w", force_zip64=True)

        async def append(content: bytes) -> None:
            await run_sync(opened.write, content)
            await self._send()

        yield append
        await run_sync(opened.close)
        await self._send()

    async def close(self) -> None:
        self._zip.close()
        await self._send()

    async def _send(self) -> None:
        if content := self._pieces.take():
            self._digest.update(content)
            await self._write(content)


class _Pieces(RawIOBase):
    """A file that can only be appended to. It keeps what was not taken yet."""

    def __init__(self) -> None:
        super().__init__()
        self._content = bytearray()

    def writable(self) -> bool:
        return True

    def write(self, content: Buffer, /) -> int:
        added = memoryview(content).nbytes
        self._content += content
        return added

    def take(self) -> bytes:
        content, self._content = bytes(self._content), bytearray()
        return content
