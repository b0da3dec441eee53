"""The client library's mapped files, with pages that exist before anything is written to them.

The library extends a file without allocating it. When the disk is full, the next write to the
mapping kills the process with SIGBUS. Here the pages are allocated first. Values that find no room
stay in the memory of the process: no scrape sees them, and nothing else fails.
"""

import errno
import logging
import os
from contextlib import suppress
from pathlib import Path

from prometheus_client.mmap_dict import MmapedDict

logger = logging.getLogger(__name__)

FIRST_BYTES = 1 << 16
ENTRY_BYTES = 32  # around the key: its length, its padding, the value and the timestamp
UNSUPPORTED = (errno.EINVAL, errno.EOPNOTSUPP)


class MappedFile(MmapedDict):
    """A dict of numbers in a file. `lost` counts, for the process, the keys that found no room."""

    lost = 0

    def __init__(self, filename: str) -> None:
        self._unkept: dict[str, tuple[float, float]] = {}
        self._is_open = False
        try:
            Path(filename).parent.mkdir(parents=True, exist_ok=True)
            with Path(filename).open("ab") as file:
                _allocate(file.fileno(), FIRST_BYTES)
            super().__init__(filename)  # type: ignore[no-untyped-call]
            self._is_open = True
        except OSError as error:
            with suppress(OSError):
                Path(filename).unlink(missing_ok=True)
            self._f, self._positions = None, {}  # type: ignore[assignment]
            _warn(filename, error)

    @property
    def is_complete(self) -> bool:
        """Whether every value is in the file."""
        return not self._unkept

    def read_value(self, key: str) -> tuple[float, float]:
        """Return a value and its timestamp, zeros for a new key."""
        if not self._is_kept(key):
            return self._unkept[key]
        value: tuple[float, float] = super().read_value(key)  # type: ignore[no-untyped-call]
        return value

    def write_value(self, key: str, value: float, timestamp: float) -> None:
        """Set a value."""
        if self._is_kept(key):
            super().write_value(key, value, timestamp)  # type: ignore[no-untyped-call]
        else:
            self._unkept[key] = value, timestamp

    def _is_kept(self, key: str) -> bool:
        """Whether the value is in the file, which grows for a new key if there is room."""
        if key in self._positions:
            return True
        if key in self._unkept:
            return False
        if self._is_open and self._make_room(len(key.encode()) + ENTRY_BYTES):
            return True
        self._unkept[key] = 0.0, 0.0
        MappedFile.lost += 1
        return False

    def _make_room(self, entry_bytes: int) -> bool:
        size = self._capacity
        while self._used + entry_bytes > size:
            size *= 2
        if size == self._capacity:
            return True
        descriptor = self._f.fileno()
        try:
            _allocate(descriptor, size)
        except OSError as error:
            os.ftruncate(descriptor, self._capacity)
            _warn(self._fname, error)
            return False
        return True


def _begin_anew() -> None:
    MappedFile.lost = 0


os.register_at_fork(after_in_child=_begin_anew)


def _allocate(descriptor: int, size: int) -> None:
    """Give a file this size and every page of it, or raise OSError."""
    missing = size - os.fstat(descriptor).st_size
    if missing <= 0:
        return
    try:
        os.posix_fallocate(descriptor, 0, size)
    except (AttributeError, OSError) as error:  # macOS has no such function, some disks no support
        if isinstance(error, OSError) and error.errno not in UNSUPPORTED:
            raise
        os.lseek(descriptor, 0, os.SEEK_END)
        while missing:
            missing -= os.write(descriptor, bytes(missing))


def _warn(filename: str, error: OSError) -> None:
    """Warn once for each process."""
    if not MappedFile.lost:
        logger.warning(
            "No room for metrics in %s: %s. Requests are answered, but metrics are missing. Make "
            "room, then replace the workers with SIGHUP to the master.",
            Path(filename).parent,
            error.strerror,
        )
