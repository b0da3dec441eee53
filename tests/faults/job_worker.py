"""The job worker of a case, without the safeguard that FAULTS_CONTROL names."""

import os
from unittest.mock import patch

from app.infra.jobs import registry
from app.settings import Settings
from app.worker import create_worker, serve
from tests.faults import jobs  # noqa: F401 - declares the jobs
from tests.faults.controls import CONTROL, PATCHES, SETTINGS


def main() -> None:
    settings = Settings.model_validate_json(os.environ[SETTINGS])
    for replacement in PATCHES.get(os.environ[CONTROL], ()):
        patch.object(*replacement).start()
    worker = create_worker(settings)
    # Jobs with a schedule would be killed too, and counted.
    for name in [one.name for one in registry.all_jobs() if one.every is not None]:
        del registry._jobs[name]
    serve(worker, settings)


if __name__ == "__main__":
    main()
