"""The memory-mapped files of prometheus_client, with disk space that is allocated before use.

prometheus_client extends a file without allocating disk space for it. When the disk is full, the
next write to the mapping kills the process with SIGBUS. Here the space is allocated first. Values
that find no room on the disk stay in the memory of the process: no scrape sees them, and nothing
else fails.
"""

import errno
import logging
import os
from contextlib import suppress
from pathlib import Path

from prometheus_client import values
from prometheus_client.mmap_dict import MmapedDict

logger = logging.getLogger(__name__)

INITIAL_BYTES = 1 << 16
# An entry needs up to this many bytes beside its key: length, padding, value and timestamp.
ENTRY_OVERHEAD_BYTES = 32
ALLOCATION_UNSUPPORTED = (errno.EINVAL, errno.EOPNOTSUPP)


class MappedFile(MmapedDict):
    """A dictionary of numbers in a file. It replaces prometheus_client's own class.

    `lost_keys` counts, for the whole process, the keys that found no room on the disk.
    """

    lost_keys = 0

    def __init__(self, filename: str) -> None:
        self._in_memory: dict[str, tuple[float, float]] = {}
        self._is_open = False
        try:
            Path(filename).parent.mkdir(parents=True, exist_ok=True)
            with Path(filename).open("ab") as file:
                _allocate(file.fileno(), INITIAL_BYTES)
            super().__init__(filename)  # type: ignore[no-untyped-call]
            self._is_open = True
        except OSError as error:
            with suppress(OSError):
                Path(filename).unlink(missing_ok=True)
            self._f, self._positions = None, {}  # type: ignore[assignment]
            _warn_once(filename, error)

    @property
    def is_complete(self) -> bool:
        """Whether every value is in the file."""
        return not self._in_memory

    def read_value(self, key: str) -> tuple[float, float]:
        """Return a value and its timestamp. Both are zero for a new key."""
        if not self._ensure_in_file(key):
            return self._in_memory[key]
        value: tuple[float, float] = super().read_value(key)  # type: ignore[no-untyped-call]
        return value

    def write_value(self, key: str, value: float, timestamp: float) -> None:
        """Write a value to the file, or keep it in memory if the file has no room for it."""
        if self._ensure_in_file(key):
            super().write_value(key, value, timestamp)  # type: ignore[no-untyped-call]
        else:
            self._in_memory[key] = value, timestamp

    def _ensure_in_file(self, key: str) -> bool:
        """Return whether the key is in the file. The file grows for a new key if there is room."""
        if key in self._positions:
            return True
        if key in self._in_memory:
            return False
        if self._is_open and self._make_room(len(key.encode()) + ENTRY_OVERHEAD_BYTES):
            return True
        self._in_memory[key] = 0.0, 0.0
        MappedFile.lost_keys += 1
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
            _warn_once(self._fname, error)
            return False
        return True


def use_preallocated_files() -> None:
    """Make prometheus_client use `MappedFile`. Call this before the first metric is created."""
    values.MmapedDict = MappedFile  # type: ignore[attr-defined, assignment]


def _reset_after_fork() -> None:
    MappedFile.lost_keys = 0


os.register_at_fork(after_in_child=_reset_after_fork)


def _allocate(descriptor: int, size: int) -> None:
    """Extend a file to `size` bytes with all of its disk space allocated, or raise OSError."""
    missing = size - os.fstat(descriptor).st_size
    if missing <= 0:
        return
    try:
        os.posix_fallocate(descriptor, 0, size)
    except (AttributeError, OSError) as error:
        # macOS does not have this function, and some file systems do not support it.
        if isinstance(error, OSError) and error.errno not in ALLOCATION_UNSUPPORTED:
            raise
        os.lseek(descriptor, 0, os.SEEK_END)
        while missing:
            missing -= os.write(descriptor, bytes(missing))


def _warn_once(filename: str, error: OSError) -> None:
    """Log a warning, unless this process has lost a key (and so has warned) before."""
    if not MappedFile.lost_keys:
        logger.warning(
            "No room for metrics in %s: %s. Requests are answered, but metrics are missing. Make "
            "room, then replace the workers with SIGHUP to the master.",
            Path(filename).parent,
            error.strerror,
        )
