"""What Gunicorn's master reads in a case: the service's own configuration, after a guard of the
master was removed if FAULTS_CONTROL names one.

It is read by its path and imports nothing of the tests, whose package hides the environment.
"""

import os
from collections.abc import Callable
from pathlib import Path

from app.infra.server import metrics_files

PATCHES: dict[str, tuple[str, Callable[..., None]]] = {
    "no_archive": ("_add", lambda _source, _archive: None),  # and the files are removed
    "files_left": ("archive_worker", lambda _process_id: None),
}

if control := PATCHES.get(os.environ["FAULTS_CONTROL"]):
    setattr(metrics_files, *control)
exec(Path("gunicorn_config.py").read_text(encoding="utf-8"))
