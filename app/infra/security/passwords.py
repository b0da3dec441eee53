"""Passwords, hashed with Argon2id in threads of their own."""

import os
import sys
import threading
from collections.abc import Iterator, Mapping
from contextlib import contextmanager, suppress
from enum import IntEnum

from argon2 import PasswordHasher
from argon2.exceptions import InvalidHashError, VerificationError

from app.errors import Unavailable
from app.infra.observability.metrics import REFUSED
from app.infra.security.settings import AuthSettings
from app.infra.threads import BoundedThreads
from app.infra.validation.fields import normalise_password

HASHING_NICENESS = 5  # added to that of the process: a third of the CPU time of other threads
TOO_MANY = "Too many passwords are being checked. Try again in a moment."


class PasswordMatch(IntEnum):
    """The result of verifying a password. NONE is false, the others are true."""

    NONE = 0
    AS_TYPED = 1  # the hash is older than the normalisation of passwords
    NORMALISED = 2


class Passwords:
    """Hashes passwords without blocking the event loop, and within bounded memory.

    At most `hashing_threads` hashes run, each with `argon2_memory_kib`, and `hashing_queue` calls
    wait. A call raises `Unavailable` when the queue is full, or when no thread has started its hash
    within `hashing_queue_seconds`.
    """

    def __init__(self, settings: AuthSettings) -> None:
        self._hasher = PasswordHasher(
            time_cost=settings.argon2_time_cost,
            memory_cost=settings.argon2_memory_kib,
            parallelism=1,  # more threads for one hash would compete with the event loop
        )
        self._threads = BoundedThreads(
            "passwords",
            threads=settings.hashing_threads,
            queue=settings.hashing_queue,
            queue_seconds=settings.hashing_queue_seconds,
            busy=TOO_MANY,
            initializer=_lower_priority,
        )
        self._dummy = self._hasher.hash("a password for unknown accounts")

    async def hash(self, password: str) -> str:
        """Return the encoded hash of a new password."""
        with _counted_refusals():
            return await self._hash(password)

    async def rehash(self, password: str) -> str | None:
        """Return a hash with the current parameters, or None while the queue is full.

        Unlike `hash`, it does not count as a refused request, because the next login tries again.
        """
        with suppress(Unavailable):
            return await self._hash(password)
        return None

    async def verify(self, password: str, encoded: str | None) -> PasswordMatch:
        """Compare `password`, normalised and as it was typed, with the hash `encoded`.

        None never matches, but takes as long as a hash with the current parameters.
        """
        forms = {normalise_password(password) or password: PasswordMatch.NORMALISED}
        forms.setdefault(password, PasswordMatch.AS_TYPED)
        with _counted_refusals():
            match = await self._threads.run(self._match, forms, encoded or self._dummy)
        return match if encoded else PasswordMatch.NONE

    def is_outdated(self, encoded: str) -> bool:
        """Return whether `encoded` was made with other parameters than the current ones."""
        return self._hasher.check_needs_rehash(encoded)

    def close(self) -> None:
        """Cancel the hashes that wait. Those that run end by themselves."""
        self._threads.close()

    def measure(self) -> None:
        self._threads.measure()

    async def _hash(self, password: str) -> str:
        return await self._threads.run(self._hasher.hash, normalise_password(password) or password)

    def _match(self, forms: Mapping[str, PasswordMatch], encoded: str) -> PasswordMatch:
        for form, match in forms.items():
            with suppress(VerificationError, InvalidHashError):
                self._hasher.verify(encoded, form)
                return match
        return PasswordMatch.NONE


@contextmanager
def _counted_refusals() -> Iterator[None]:
    try:
        yield
    except Unavailable:
        REFUSED.labels("hashing").inc()
        raise


def _lower_priority() -> None:
    """Lower the priority of this thread. Only Linux has a priority for each thread."""
    if sys.platform == "linux":
        thread = threading.get_native_id()
        niceness = os.getpriority(os.PRIO_PROCESS, thread) + HASHING_NICENESS
        with suppress(OSError):
            os.setpriority(os.PRIO_PROCESS, thread, niceness)
