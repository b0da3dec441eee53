"""A module that takes longer to import in another process than a call may take in its test."""

import os
import time

time.sleep(float(os.environ.get("TEST_IMPORT_SECONDS", "0")))


def double(number: int) -> int:
    return 2 * number
