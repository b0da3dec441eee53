"""The folder in which the workers keep their metrics.

prometheus_client looks for the folder as soon as it is imported. It is therefore imported late, in
functions.
"""

import logging
import os
import tempfile
from contextlib import suppress
from errno import EACCES
from pathlib import Path

FOLDER = "PROMETHEUS_MULTIPROC_DIR"  # the environment variable that prometheus_client reads
# The environment variable in which a master keeps its own process id after it has made the folder.
MASTER = "METRICS_MASTER"

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
        for file in folder.glob("*.db"):
            file.unlink(missing_ok=True)
        folder.rmdir()


def files_name(slot: int) -> str:
    """Return what the files of the workers in this slot are named after."""
    return f"worker-{slot}"


def remove_live_gauges(slot: int) -> None:
    """Remove the gauges of a worker that has exited. Its counters stay, for the next worker.

    An error is logged and not raised, because the master must not end over metrics.
    """
    if FOLDER not in os.environ:
        return
    from prometheus_client.multiprocess import mark_process_dead

    try:
        mark_process_dead(files_name(slot), os.environ[FOLDER])
    except OSError:
        logger.exception("The gauges of a worker that has exited cannot be removed")
