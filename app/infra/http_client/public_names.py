"""Looks up the names in URLs of users, in threads of its own.

A look-up blocks its thread until a name server answers, and cannot be cancelled. In the threads
that all share, a user with names that nobody answers for could stop the look-ups of the database.
"""

import socket
from functools import partial

from aiohttp.abc import AbstractResolver, ResolveResult

from app.infra.threads import BoundedThreads

THREADS, QUEUE = 4, 64


class PublicNames(AbstractResolver):
    """The resolver of the session for URLs of users. Raises `Unavailable` if its queue is full."""

    def __init__(self, queue_seconds: float) -> None:
        self._threads = BoundedThreads(
            "names",
            threads=THREADS,
            queue=QUEUE,
            queue_seconds=queue_seconds,
            busy="Too many names of servers are being looked up.",
        )

    async def resolve(
        self, host: str, port: int = 0, family: socket.AddressFamily = socket.AF_UNSPEC
    ) -> list[ResolveResult]:
        """Return the addresses of a name, public or not: the socket is what is checked."""
        look_up = partial(socket.getaddrinfo, host, port, family, socket.SOCK_STREAM)
        return [
            ResolveResult(
                hostname=host,
                host=str(address[0]),
                port=port,
                family=found,
                proto=protocol,
                flags=socket.AI_NUMERICHOST | socket.AI_NUMERICSERV,
            )
            for found, _, protocol, _, address in await self._threads.run(look_up)
        ]

    def measure(self) -> None:
        self._threads.measure()

    async def close(self) -> None:
        self._threads.close()
