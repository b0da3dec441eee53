"""Objects, which are files under a key, in S3 or in a folder.

All calls have a time limit, and none blocks the event loop: obstore does the work in threads of its
own. While the store does not answer, each call raises `Unavailable`.
"""

import asyncio
import logging
import time
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager, suppress
from typing import TypeVar

from obstore import (
    delete_async,
    get_range_async,
    head_async,
    list_with_delimiter_async,
    open_writer_async,
    put_async,
)
from obstore.exceptions import BaseError
from obstore.store import LocalStore, S3Store

from app.errors import Unavailable
from app.infra.breaker import Breaker, BreakerOpen
from app.infra.observability.metrics import STORAGE_SECONDS, exact

logger = logging.getLogger(__name__)

T = TypeVar("T")
Write = Callable[[bytes], Awaitable[None]]

MIB = 1024 * 1024
PART_BYTES = 8 * MIB  # of an object that is written piece by piece. S3 takes 10,000 parts
# A part is sent within so many times the limit of other calls, and so is the end of all parts.
PART_FACTOR = 10
NEED_OBJECT = ("head", "get", "delete")
# What an operation does to the files. All others read them.
EFFECTS = {"put": "write", "write": "write", "delete": "delete"}
PROBE = "probe"  # a prefix that no key has


class ObjectStore:
    """Keys are paths such as `avatars/1f….webp`. An object never changes under its key."""

    def __init__(
        self,
        store: LocalStore | S3Store | None,
        timeout_seconds: float,
        *,
        is_broken: bool = False,
    ) -> None:
        """Use `store`. None means that none is set, and then every call raises `Unavailable`.

        `is_broken` means that one is set, and cannot be used.
        """
        self._store = store
        self._is_broken = is_broken
        self._timeout_seconds = timeout_seconds
        # A store that is full can be read, and files can be deleted from it.
        self._breakers = {effect: _breaker(effect) for effect in ("read", "write", "delete")}

    async def put(self, key: str, content: bytes) -> None:
        """Store an object as a whole. A reader sees all of it or nothing."""
        store = self._opened
        await self._run("put", lambda: put_async(store, key, content, use_multipart=False))

    async def size(self, key: str) -> int | None:
        """Return the number of bytes of an object, or None if there is no such object."""
        store = self._opened
        meta = await self._run("head", lambda: head_async(store, key))
        return None if meta is None else meta["size"]

    async def read(self, key: str, start: int, length: int) -> bytes | None:
        """Return a part of an object, or None if there is no such object."""
        store = self._opened
        part = await self._run(
            "get", lambda: get_range_async(store, key, start=start, length=length)
        )
        return None if part is None else bytes(part)

    async def delete(self, key: str) -> None:
        """Delete an object, if it exists."""
        store = self._opened
        if await self._run("delete", lambda: _delete(store, key)) is None:
            await self._list()  # otherwise it is the bucket that does not exist

    @asynccontextmanager
    async def writer(self, key: str) -> AsyncIterator[Write]:
        """Yield a function that writes the next bytes of an object.

        The object exists once the block has ended without an error. The bytes are kept in memory
        until they are a part, and all parts are dropped after an error.
        """
        target = open_writer_async(self._opened, key, buffer_size=PART_BYTES, max_concurrency=1)

        seconds = PART_FACTOR * self._timeout_seconds

        async def write(content: bytes) -> None:
            await self._run("write", lambda: target.write(content), seconds)

        try:
            yield write
        except BaseException as error:  # drop the parts, also when the job is cancelled
            with suppress(TimeoutError, BaseError, OSError):  # the first error counts
                async with asyncio.timeout(self._timeout_seconds):
                    await target.__aexit__(type(error), error, error.__traceback__)
            raise
        await self._run("write", target.close, seconds)

    async def check(self) -> str:
        """Return the state of the store for /readyz."""
        if self._store is None:
            return "unavailable" if self._is_broken else "not used"
        try:
            await self._list()
        except Unavailable:
            return "unavailable"
        return "ok"

    @property
    def is_set(self) -> bool:
        return self._store is not None

    def require(self) -> None:
        """Raise `Unavailable` if no store is set, before work that would be in vain."""
        _ = self._opened

    @property
    def _opened(self) -> LocalStore | S3Store:
        if self._store is None:
            raise Unavailable("This service has no store for files.")
        return self._store

    async def _list(self) -> None:
        """Make a call that fails if there is no bucket. All others may be answered with 404."""
        store = self._opened
        await self._run("list", lambda: list_with_delimiter_async(store, PROBE))

    async def _run(
        self, operation: str, call: Callable[[], Awaitable[T]], seconds: float | None = None
    ) -> T | None:
        """Return the result, or None if the object does not exist.

        For a call that needs no object, a 404 is an error: the bucket does not exist.
        """
        began, result = time.perf_counter(), "error"
        breaker = self._breakers[EFFECTS.get(operation, "read")]
        try:
            with breaker.call():
                try:
                    async with asyncio.timeout(seconds or self._timeout_seconds):
                        answer = await call()
                    result = "ok"
                except FileNotFoundError:
                    if operation not in NEED_OBJECT:
                        raise
                    answer, result = None, "missing"
        except (BreakerOpen, BaseError, OSError) as error:
            raise Unavailable("The store for files does not answer.") from error
        finally:
            STORAGE_SECONDS.labels(operation, result).observe(exact(time.perf_counter() - began))
        return answer


async def _delete(store: LocalStore | S3Store, key: str) -> bool:
    await delete_async(store, key)
    return True


def _breaker(effect: str) -> Breaker:
    def log_open(error: Exception) -> None:
        # The text of an error may contain the address of the store with its keys.
        logger.warning(
            "The store for files fails to %s files (%s). Requests that need this get 503. If it is "
            "running, look at its free space, and correct the settings STORAGE_….",
            *(effect, type(error).__name__),
        )

    def log_close() -> None:
        logger.warning("The store for files can %s files again.", effect)

    return Breaker(log_open, log_close)
