"""Checks whether the service would start with its current settings, before it is reloaded."""

import os
import re
import subprocess
import tempfile
from ast import literal_eval
from collections.abc import Sequence

from gunicorn.util import parse_address

from graceful_gunicorn.bind_check import bind_error
from graceful_gunicorn.multiprocess_metrics import FOLDER

# The check takes 1.5 s of CPU time, and several times as long on a busy machine.
CHECK_SECONDS = 30


def reason_not_to_reload(command: Sequence[str], own_addresses: Sequence[object]) -> str | None:
    """Load the configuration and the application in another process. Return the error, if any.

    `own_addresses` are the addresses at which this instance listens.
    """
    try:
        # The command gets a folder of its own for its metrics. The real one belongs to the master.
        with tempfile.TemporaryDirectory() as folder:
            result = subprocess.run(  # noqa: S603 - the operator configured this command
                command,
                env={**os.environ, FOLDER: folder},
                capture_output=True,
                timeout=CHECK_SECONDS,
            )
    except (OSError, subprocess.TimeoutExpired) as error:
        return str(error)
    if result.returncode:
        errors = result.stderr.decode(errors="replace").strip()
        return errors or f"The check command exited with code {result.returncode}."
    return _reason_not_to_bind(result.stdout.decode(errors="replace"), own_addresses)


def _reason_not_to_bind(configuration: str, own_addresses: Sequence[object]) -> str | None:
    """Try to bind the addresses in a printed configuration, except those of this instance."""
    found = re.search(r"^bind\s*=\s*(\[.*\])$", configuration, re.MULTILINE)
    for address in literal_eval(found[1]) if found else []:
        try:
            parsed = parse_address(address)
            # The path of a Unix socket and the number of a descriptor cannot be tried.
            if parsed in own_addresses or not isinstance(parsed, tuple):
                continue
            error = bind_error(*parsed)
        except (RuntimeError, OverflowError, UnicodeError) as wrong:
            return f"It cannot listen at {address}: {wrong}"
        if error is not None:
            return f"It cannot listen at {address}: {error.strerror}. Choose another port."
    return None
