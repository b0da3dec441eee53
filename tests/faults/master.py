"""The Gunicorn configuration of a fault case: that of the service, without one safeguard.

If FAULTS_CONTROL names a safeguard of the master, it is removed before the configuration runs.
Gunicorn reads this file by its path. The file imports nothing from `tests`, because that package
hides the environment.
"""

import os
from pathlib import Path
from typing import Any
from unittest.mock import patch


def _remove_all_files(slot: int) -> None:
    for file in Path(os.environ["PROMETHEUS_MULTIPROC_DIR"]).glob(f"*_worker-{slot}.db"):
        file.unlink()


SHARED_STATE = "graceful_gunicorn.shared_state.SharedState"
# The patches are strings, so that only the module of the chosen control is imported. Some modules
# must not be imported before the folder of the metrics exists.
PATCHES: dict[str, tuple[str, Any]] = {
    "with the metrics files of replaced workers deleted": (
        "graceful_gunicorn.multiprocess_metrics.remove_live_gauges",
        _remove_all_files,
    ),
    # Each process gets new files, as prometheus_client names them.
    "with new metrics files for each process": (
        "graceful_gunicorn.mapped_file.name_process",
        lambda _name: None,
    ),
    "without reserving disk space for metrics": (
        "graceful_gunicorn.mapped_file._allocate",
        lambda _file, size: size,
    ),
    # Each failed boot ends the instance, as it does at the first start.
    "with a failed start that ends the instance": (f"{SHARED_STATE}.started", False),
}

if control := PATCHES.get(os.environ["FAULTS_CONTROL"]):
    patch(*control).start()
exec(Path("gunicorn_config.py").read_text(encoding="utf-8"))
