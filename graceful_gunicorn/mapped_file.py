"""The files in which prometheus_client keeps the metrics of the workers.

prometheus_client gives each process files of its own. Here a worker continues in the files of the
worker that had its slot before, so counters never fall and the folder does not grow.

prometheus_client also extends a file without allocating disk space for it. When the disk is full,
the next write to the mapping kills the process with SIGBUS. Here the space is allocated first. A
metric that finds no room on the disk stays in the memory of the process: no scrape sees it, and
nothing else fails.
"""

import errno
import logging
import os
from functools import partial
from io import FileIO
from operator import getitem
from pathlib import Path

from prometheus_client import values
from prometheus_client.mmap_dict import MmapedDict

from graceful_gunicorn.multiprocess_metrics import FOLDER

logger = logging.getLogger(__name__)

INITIAL_BYTES = 1 << 16
# The header of a file, and the most that an entry needs beside its key: its length, padding, the
# value and the timestamp.
HEADER_BYTES, ENTRY_BYTES = 8, 28
ALLOCATION_UNSUPPORTED = (errno.EINVAL, errno.EOPNOTSUPP)


class MappedFile(MmapedDict):
    """A dictionary of numbers in a file. It replaces prometheus_client's own class.

    `lost_keys` counts, for the whole process, the keys that found no room on the disk.
    """

    lost_keys = 0

    def __init__(self, filename: str) -> None:
        self._path = Path(filename)
        self._stored, self._lost = set[str](), set[str]()
        self._used_bytes = HEADER_BYTES
        self._open_error: OSError | None = None
        try:
            self._path.parent.mkdir(parents=True, exist_ok=True)
            self._allocated_bytes = _allocate(self._path, INITIAL_BYTES)
            super().__init__(filename)  # type: ignore[no-untyped-call]
        except OSError as error:
            self._open_error = error
            return
        for key, _, _ in self.read_all_values():
            self._stored.add(key)
            self._used_bytes += len(key.encode()) + ENTRY_BYTES

    def read_value(self, key: str) -> tuple[float, float]:
        """Return a value and its timestamp. Both are zero for a key that is not in the file."""
        if not self._has(key):
            return 0.0, 0.0
        value: tuple[float, float] = super().read_value(key)  # type: ignore[no-untyped-call]
        return value

    def write_value(self, key: str, value: float, timestamp: float) -> None:
        """Write a value, unless the file has no room for it."""
        if self._has(key):
            super().write_value(key, value, timestamp)  # type: ignore[no-untyped-call]

    def close(self) -> None:
        """Close the file, if it was opened."""
        if self._open_error is None:
            super().close()  # type: ignore[no-untyped-call]

    def _has(self, key: str) -> bool:
        """Return whether the file has this key, or room for it. The file grows if necessary."""
        if key in self._stored:
            return True
        if key in self._lost:
            return False
        try:
            self._make_room(len(key.encode()) + ENTRY_BYTES)
        except OSError as error:
            self._lose(key, error)
            return False
        self._stored.add(key)
        return True

    def _make_room(self, entry_bytes: int) -> None:
        if self._open_error is not None:
            raise self._open_error
        used, size = self._used_bytes + entry_bytes, self._allocated_bytes
        while used > size:
            size *= 2  # as prometheus_client does when it extends the file
        if size > self._allocated_bytes:
            self._allocated_bytes = _allocate(self._path, size)
        self._used_bytes = used

    def _lose(self, key: str, error: OSError) -> None:
        if not MappedFile.lost_keys:  # one warning for each process
            logger.warning(
                "No room for metrics in %s: %s. Requests are answered, but metrics are missing. "
                "Make room, then replace the workers with SIGHUP to the master.",
                self._path.parent,
                error.strerror,
            )
        self._lost.add(key)
        MappedFile.lost_keys += 1


# Names the files of this process. It is not computed for each metric: `os.getpid` is a system call.
_process: dict[str, str | int] = {"name": os.getpid()}


def use_preallocated_files() -> None:
    """Make prometheus_client use `MappedFile`. Call this before the first metric is created.

    `ValueClass` is its hook for the names of the files. There is none for the class of the files.
    """
    if FOLDER in os.environ:
        values.MmapedDict = MappedFile  # type: ignore[attr-defined, assignment]
        values.ValueClass = values.MultiProcessValue(partial(getitem, _process, "name"))


def name_process(name: str) -> None:
    """Let this process keep its metrics in the files of this name, not in files of its own id.

    A process that is forked from this one has files of its own again.
    """
    _process["name"] = name


def _reset_after_fork() -> None:
    _process["name"] = os.getpid()
    MappedFile.lost_keys = 0


os.register_at_fork(after_in_child=_reset_after_fork)


def _allocate(file: Path, size: int) -> int:
    """Allocate disk space for at least `size` bytes, and return the size of the file.

    If there is no room, the file keeps its size, and OSError is raised.
    """
    with file.open("ab", buffering=0) as opened:
        old_size = os.fstat(opened.fileno()).st_size
        size = max(size, old_size)
        try:
            _extend(opened, old_size, size)
        except OSError:
            opened.truncate(old_size)
            raise
    return size


def _extend(file: FileIO, old_size: int, size: int) -> None:
    try:
        os.posix_fallocate(file.fileno(), 0, size)
    except (AttributeError, OSError) as error:
        # macOS does not have this function, and some file systems do not support it.
        if isinstance(error, OSError) and error.errno not in ALLOCATION_UNSUPPORTED:
            raise
        while old_size < size:
            old_size += file.write(bytes(size - old_size))
