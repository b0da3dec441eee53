"""What the developer sees in the terminal.

Only the standard library is imported: install.py uses this before any package is installed.
"""

import os
import sys
import time

# How often a status line is repeated where it cannot be rewritten, for example in a log of CI.
_REPEAT_SECONDS = 5.0


class CommandError(Exception):
    """A command failed. The text says what is wrong and what to do; it is shown last."""


def say(text: str) -> None:
    print(text, flush=True)


def bold(text: str) -> str:
    """Return the text in bold for a terminal, unless NO_COLOR is set (https://no-color.org)."""
    if not sys.stdout.isatty() or os.environ.get("NO_COLOR"):
        return text
    return f"\033[1m{text}\033[0m"


class StatusLine:
    """A line about work in progress. It is rewritten on a terminal, and repeated elsewhere.

    `shared=True` is for a terminal in which another process writes its log meanwhile: the line is
    repeated there too.
    """

    def __init__(self, *, shared: bool = False) -> None:
        self._rewrites = sys.stdout.isatty() and not shared
        self._text = ""
        self._shown_at = -_REPEAT_SECONDS

    def show(self, text: str) -> None:
        if text == self._text:
            return
        if self._rewrites:
            print(f"\r\033[K{text}", end="", flush=True)
        elif time.monotonic() - self._shown_at < _REPEAT_SECONDS:
            return
        else:
            say(text)
        self._text, self._shown_at = text, time.monotonic()

    def finish(self, text: str) -> None:
        """Replace the line by a last one."""
        say(f"\r\033[K{text}" if self._rewrites else text)
