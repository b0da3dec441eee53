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
from errno import EACCES, ENOSPC
from pathlib import Path

FOLDER = "PROMETHEUS_MULTIPROC_DIR"
MASTER = "METRICS_MASTER"  # for itself: which process has begun
ARCHIVE = "archive"
LOCK = "lock"
NOTHING = 0.0, 0.0

logger = logging.getLogger(__name__)


def begin_metrics() -> None:
    """Make an empty folder for this master, before anything imports the metrics.

    A reload runs its configuration again: then the folder is as it was.
    """
    if os.environ.get(MASTER) == str(os.getpid()):
        return
    os.environ[MASTER] = str(os.getpid())
    try:
        os.environ[FOLDER] = _empty_folder(os.environ.get(FOLDER, "").strip())
    except OSError as error:
        raise SystemExit(
            f"The service cannot start. {FOLDER}: the files of the metrics cannot be there "
            f"({error.strerror}). Set it to a folder in which this user may write."
        ) from None


def _empty_folder(name: str) -> str:
    """Return a folder without counters, a new one if none is named."""
    if not name:
        return tempfile.mkdtemp(prefix="metrics-")
    folder = Path(name)
    folder.mkdir(parents=True, exist_ok=True)
    for file in folder.glob("*.db"):
        file.unlink()
    if not os.access(folder, os.W_OK | os.X_OK):
        raise PermissionError(EACCES, os.strerror(EACCES))
    return name


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
        logger.exception("The counters of worker %s are not in the archive", process_id)


def _archive(process_id: int) -> None:
    from prometheus_client.multiprocess import mark_process_dead

    with metrics_lock(exclusive=True):
        mark_process_dead(process_id, path=os.environ[FOLDER])
        for file in Path(os.environ[FOLDER]).glob(f"*_{process_id}.db"):
            kind = file.name.removesuffix(f"_{process_id}.db")
            begun = file.stat().st_size > 0  # it may have been killed before
            if begun and kind in ("counter", "histogram", "summary"):
                _add(file, file.with_name(f"{kind}_{ARCHIVE}.db"))
            file.unlink()


@contextmanager
def metrics_lock(*, exclusive: bool) -> Iterator[None]:
    """Keep the archive from changing while it is read, and from being read while it changes."""
    folder = Path(os.environ[FOLDER])
    folder.mkdir(parents=True, exist_ok=True)  # programs that tidy up may have removed it
    with (folder / LOCK).open("a", encoding="utf-8") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX if exclusive else fcntl.LOCK_SH)
        yield


def _add(source: Path, archive: Path) -> None:
    """Write the sum of both to a new file, which takes the place of the archive when it is whole.

    It raises OSError when there is no room. Then the source stays, and is part of every scrape.
    """
    from app.infra.mapped_file import MappedFile

    totals: dict[str, tuple[float, float]] = {}
    for file in filter(Path.exists, (archive, source)):
        for key, value, timestamp, _ in MappedFile.read_all_values_from_file(str(file)):
            totals[key] = totals.get(key, NOTHING)[0] + value, timestamp
    new = archive.with_suffix(".new")
    new.unlink(missing_ok=True)
    written = MappedFile(str(new))
    for key, (value, timestamp) in totals.items():
        written.write_value(key, value, timestamp)
    written.close()
    if not written.is_complete:
        new.unlink(missing_ok=True)
        raise OSError(ENOSPC, "No room for the archive of the metrics")
    new.replace(archive)
