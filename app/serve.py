"""Start the service with Gunicorn: `python -m app.serve`, optionally with options of Gunicorn.

Gunicorn and Uvicorn read WEB_CONCURRENCY too, and fail with a traceback if it is not a number. So
this module reads the settings first, and replaces `auto` by a number.
"""

import os
import signal
import sys
from pathlib import Path

CONFIGURATION = Path(__file__).parents[1] / "gunicorn_config.py"
WORKERS = "WEB_CONCURRENCY"


def main() -> None:
    # Until Gunicorn installs its handlers, these end the process without a traceback. A shell lets
    # its background jobs ignore them.
    for number in (signal.SIGINT, signal.SIGQUIT):
        signal.signal(number, signal.SIG_DFL)
    from app.settings import load_settings
    from graceful_gunicorn import available_cores

    settings = load_settings()
    if os.environ.pop(WORKERS, "").strip():
        os.environ[WORKERS] = str(settings.web_concurrency or available_cores())
    sys.argv[1:1] = ["--config", str(CONFIGURATION)]  # the last --config wins
    from gunicorn.app.wsgiapp import run  # reads WEB_CONCURRENCY when it is imported

    run(prog="python -m app.serve")


if __name__ == "__main__":
    main()
