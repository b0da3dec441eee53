"""What Gunicorn's master reads in a case: the service's own configuration, after a guard of the
master was removed if FAULTS_CONTROL names one.

It is read by its path and imports nothing of the tests, whose package hides the environment.
"""

import os
from pathlib import Path
from typing import Any
from unittest.mock import patch

FILES, TABLE = "app.infra.server.metrics_files", "app.infra.server.load_table.LoadTable"
# The modules are imported by the control that needs them: some must not be imported before the
# folder of the metrics is there.
PATCHES: dict[str, tuple[str, Any]] = {
    # The files are removed all the same.
    "no_archive": (f"{FILES}._add", lambda _source, _archive: None),
    "files_left": (f"{FILES}.archive_worker", lambda _process_id: None),
    "sparse_files": ("app.infra.mapped_file._allocate", lambda _descriptor, _size: None),
    # Gunicorn ends the instance for each boot that fails, as it does at the first start.
    "halting": (f"{TABLE}.started", False),
}

if control := PATCHES.get(os.environ["FAULTS_CONTROL"]):
    patch(*control).start()
exec(Path("gunicorn_config.py").read_text(encoding="utf-8"))
