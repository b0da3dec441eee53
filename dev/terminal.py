"""What the developer sees: plain lines, and one line that is rewritten while a long wait lasts.

Standard library only, because the installer uses it before anything is installed.
"""

import os
import sys
import time

# Where lines cannot be rewritten (a log, CI) one every few seconds says as much.
_REPEAT_SECONDS = 5.0


class CommandError(Exception):
    """A command cannot go on. Its text is the sentence that the developer reads last."""


def say(text: str) -> None:
    """Print a line now, into a pipe too."""
    print(text, flush=True)


def bold(text: str) -> str:
    """Emphasise on a terminal; https://no-color.org is respected."""
    if not sys.stdout.isatty() or os.environ.get("NO_COLOR"):
        return text
    return f"\033[1m{text}\033[0m"


class StatusLine:
    """A line about something under way: rewritten on a terminal, repeated elsewhere."""

    def __init__(self) -> None:
        self._text = ""
        self._shown_at = -_REPEAT_SECONDS

    def show(self, text: str) -> None:
        """Say how far it is."""
        if text == self._text:
            return
        if sys.stdout.isatty():
            print(f"\r\033[K{text}", end="", flush=True)
        elif time.monotonic() - self._shown_at < _REPEAT_SECONDS:
            return
        else:
            say(text)
        self._text, self._shown_at = text, time.monotonic()

    def finish(self, text: str) -> None:
        """Say how it ended, and leave the line."""
        say(f"\r\033[K{text}" if sys.stdout.isatty() else text)
