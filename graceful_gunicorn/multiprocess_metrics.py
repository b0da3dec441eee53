"""The files in which workers keep their metrics, and the archive of workers that have exited.

The counters of a worker that has exited must be kept, or the rates in Prometheus jump. Its files
must be removed, or the folder grows with every worker that is replaced. So the master adds the
counters to an archive (one for counters, one for histograms, one for summaries) and removes the
files. The archiving takes a lock that a scrape holds too, so a scrape sees these numbers exactly
once: either in the worker's file or in the archive.

prometheus_client looks for the folder as soon as it is imported. It is therefore imported late, in
functions.
"""

import fcntl
import logging
import os
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from errno import EACCES, ENOSPC
from pathlib import Path

FOLDER = "PROMETHEUS_MULTIPROC_DIR"  # the environment variable that prometheus_client reads
# The environment variable in which a master keeps its own process id after it has made the folder.
MASTER = "METRICS_MASTER"
ARCHIVE = "archive"
LOCK = "lock"
ZERO = 0.0, 0.0  # a value and its timestamp

logger = logging.getLogger(__name__)


def begin_metrics() -> None:
    """Create an empty folder for the metrics of this master.

    Call this in Gunicorn's configuration file, before anything imports prometheus_client. A reload
    runs the configuration file again. The folder then stays as it is.
    """
    if os.environ.get(MASTER) == str(os.getpid()):
        return
    os.environ[MASTER] = str(os.getpid())
    try:
        os.environ[FOLDER] = _empty_folder(os.environ.get(FOLDER, "").strip())
    except OSError as error:
        raise SystemExit(
            f"The service cannot start. {FOLDER}: metrics files cannot be written to this folder "
            f"({error.strerror}). Set it to a folder in which this user may write."
        ) from None


def _empty_folder(name: str) -> str:
    """Return a folder without metrics files. An empty `name` means a new temporary folder."""
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
    """Remove the metrics files. The folder is removed too, unless it contains other files."""
    folder = Path(os.environ[FOLDER])
    with suppress(OSError):
        for file in (*folder.glob("*.db"), folder / LOCK):
            file.unlink(missing_ok=True)
        folder.rmdir()


def archive_worker(process_id: int) -> None:
    """Add the counters of a worker that has exited to the archive, and drop its gauges.

    An error is logged and not raised, because the master must not end over metrics.
    """
    try:
        _archive_files(process_id)
    except Exception:
        logger.exception("The counters of worker %s are not in the archive", process_id)


def _archive_files(process_id: int) -> None:
    from prometheus_client.multiprocess import mark_process_dead

    with metrics_lock(exclusive=True):
        mark_process_dead(process_id, path=os.environ[FOLDER])
        for file in Path(os.environ[FOLDER]).glob(f"*_{process_id}.db"):
            kind = file.name.removesuffix(f"_{process_id}.db")
            # The file is empty if the worker was killed while it created the file.
            is_written = file.stat().st_size > 0
            if is_written and kind in ("counter", "histogram", "summary"):
                _add_to_archive(file, file.with_name(f"{kind}_{ARCHIVE}.db"))
            file.unlink()


@contextmanager
def metrics_lock(*, exclusive: bool) -> Iterator[None]:
    """Lock the archive: a scrape takes a shared lock, a change of the archive an exclusive one."""
    folder = Path(os.environ[FOLDER])
    folder.mkdir(parents=True, exist_ok=True)  # a clean-up program may have removed the folder
    with (folder / LOCK).open("a", encoding="utf-8") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX if exclusive else fcntl.LOCK_SH)
        yield


def _add_to_archive(source: Path, archive: Path) -> None:
    """Write the sum of both files to a new file, and replace the archive when it is complete.

    Raises OSError if the disk has no room for the new file. The source then stays, and every scrape
    includes it.
    """
    from graceful_gunicorn.mapped_file import MappedFile

    totals: dict[str, tuple[float, float]] = {}
    for file in filter(Path.exists, (archive, source)):
        for key, value, timestamp, _ in MappedFile.read_all_values_from_file(str(file)):
            totals[key] = totals.get(key, ZERO)[0] + value, timestamp
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
