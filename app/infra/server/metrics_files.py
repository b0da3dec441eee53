"""The files in which workers keep their counters, and what becomes of those of the dead.

Their counters must not be lost, or rates jump; and their files must not stay, or the folder grows
with every worker that was replaced. So the master adds them to one archive for each kind. A scrape
holds the lock that this takes: it sees a dead worker's numbers once, in its file or in the archive.

The client library is imported late: when it is, it looks at once whether there is a folder.
"""

import fcntl
import logging
import os
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

FOLDER = "PROMETHEUS_MULTIPROC_DIR"
MASTER = "METRICS_MASTER"  # for itself: which process has begun
ARCHIVE = "archive"
LOCK = "lock"

logger = logging.getLogger(__name__)


def begin_metrics() -> None:
    """Make an empty folder for this master, before anything imports the metrics.

    A reload runs its configuration again: then the folder is as it was.
    """
    if os.environ.get(MASTER) == str(os.getpid()):
        return
    os.environ[MASTER] = str(os.getpid())
    if FOLDER not in os.environ:
        os.environ[FOLDER] = tempfile.mkdtemp(prefix="metrics-")
        return
    folder = Path(os.environ[FOLDER])
    folder.mkdir(parents=True, exist_ok=True)
    for file in folder.glob("*.db"):
        file.unlink()


def end_metrics() -> None:
    """Remove the files, and the folder if there is nothing of anybody else's in it."""
    folder = Path(os.environ[FOLDER])
    with suppress(OSError):
        for file in (*folder.glob("*.db"), folder / LOCK):
            file.unlink(missing_ok=True)
        folder.rmdir()


def archive_worker(process_id: int) -> None:
    """Add the counters of a dead worker to the archive, and forget its gauges.

    What fails is logged and not raised: numbers are no reason for the master to end.
    """
    try:
        _archive(process_id)
    except Exception:
        logger.exception("The counters of worker %s are lost", process_id)


def _archive(process_id: int) -> None:
    from prometheus_client.multiprocess import mark_process_dead

    with metrics_lock(exclusive=True):
        mark_process_dead(process_id)
        for file in Path(os.environ[FOLDER]).glob(f"*_{process_id}.db"):
            kind = file.name.removesuffix(f"_{process_id}.db")
            begun = file.stat().st_size > 0  # it may have been killed before
            if begun and kind in ("counter", "histogram", "summary"):
                _add(file, file.with_name(f"{kind}_{ARCHIVE}.db"))
            file.unlink()


@contextmanager
def metrics_lock(*, exclusive: bool) -> Iterator[None]:
    """Keep the archive from changing while it is read, and from being read while it changes."""
    with (Path(os.environ[FOLDER]) / LOCK).open("a", encoding="utf-8") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX if exclusive else fcntl.LOCK_SH)
        yield


def _add(source: Path, archive: Path) -> None:
    from prometheus_client.mmap_dict import MmapedDict

    total = MmapedDict(str(archive))
    for key, value, timestamp, _ in MmapedDict.read_all_values_from_file(str(source)):
        total.write_value(key, total.read_value(key)[0] + value, timestamp)
    total.close()
