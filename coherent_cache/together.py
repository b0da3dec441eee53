"""Combines the invalidations of several transactions into one command.

Under load, several transactions end while one command is on its way. A command for each of them
would cost Valkey, this process and every process that listens several times as much.
"""

import asyncio
from collections.abc import Awaitable, Callable, Sequence

from coherent_cache._tasks import detached

TAGS_PER_COMMAND = 500

Send = Callable[[Sequence[str]], Awaitable[None]]


class _Command:
    """The next command. Tags can be added until it `has_begun`."""

    def __init__(self, send: Send, previous: asyncio.Task[None] | None) -> None:
        self.tags: set[str] = set()
        self.has_begun = False
        self.task = detached(self._run(send, previous))
        self.task.add_done_callback(_retrieve)

    async def _run(self, send: Send, previous: asyncio.Task[None] | None) -> None:
        if previous is not None:
            await asyncio.wait({previous})
        self.has_begun = True
        await send(sorted(self.tags))


class SentTogether:
    """At most one command is in flight. The tags of all who ask meanwhile share the next one."""

    def __init__(self, send: Send) -> None:
        self._send = send
        self._newest: _Command | None = None

    async def send(self, tags: Sequence[str]) -> None:
        """Send up to TAGS_PER_COMMAND tags in a command that begins after this call.

        It begins when those before it have ended. Raises the error of its own command.
        """
        command = self._newest
        if command is None or command.task.done():
            command = self._newest = _Command(self._send, None)
        elif command.has_begun or len(command.tags) + len(tags) > TAGS_PER_COMMAND:
            command = self._newest = _Command(self._send, command.task)
        command.tags.update(tags)
        await asyncio.shield(command.task)  # a caller that is cancelled must not cancel the others


def _retrieve(task: asyncio.Task[None]) -> None:
    """Keep asyncio from logging an error if every caller was cancelled."""
    if not task.cancelled():
        task.exception()
