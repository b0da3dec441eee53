"""Passwords, hashed with Argon2id off the event loop."""

import asyncio
import os
import sys
import threading
from collections.abc import Callable, Mapping
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from enum import IntEnum
from threading import BoundedSemaphore
from typing import ParamSpec, TypeVar

from argon2 import PasswordHasher
from argon2.exceptions import InvalidHashError, VerificationError

from app.errors import Unavailable
from app.infra.observability.metrics import REFUSED
from app.infra.security.settings import AuthSettings
from app.infra.validation.fields import normalise_password

P = ParamSpec("P")
T = TypeVar("T")

HASHING_NICENESS = 5  # a third of the processor time of a thread with the usual priority


class PasswordMatch(IntEnum):
    """What the check of a password found. NONE is false, the others are true."""

    NONE = 0
    AS_TYPED = 1  # the hash is of the password as it was typed: it was made before normalisation
    NORMALISED = 2


class Passwords:
    """Argon2id in threads of its own, so that hashing can neither block the loop nor eat memory.

    At most `hashing_threads` hashes run (each takes `argon2_memory_kib`) and `hashing_queue` wait.
    A call raises `Unavailable` when the queue is full, and when no thread has begun its hash within
    `hashing_queue_seconds`.
    """

    def __init__(self, settings: AuthSettings) -> None:
        self._hasher = PasswordHasher(
            time_cost=settings.argon2_time_cost,
            memory_cost=settings.argon2_memory_kib,
            parallelism=1,  # more lanes would be more threads against each event loop
        )
        self._threads = ThreadPoolExecutor(settings.hashing_threads, "argon2", _yield_to_event_loop)
        self._places = BoundedSemaphore(settings.hashing_threads + settings.hashing_queue)
        self._queue_seconds = settings.hashing_queue_seconds
        self._dummy = self._hasher.hash("the password of nobody")

    async def hash(self, password: str) -> str:
        """Return the encoded hash of a new password, with its parameters and a random salt."""
        return await self._run(self._hasher.hash, normalise_password(password) or password)

    async def verify(self, password: str, encoded: str | None) -> PasswordMatch:
        """Whether `password`, normalised or as it was typed, has the hash `encoded`.

        No hash takes as long as one with the parameters in force, and never matches.
        """
        forms = {normalise_password(password) or password: PasswordMatch.NORMALISED}
        forms.setdefault(password, PasswordMatch.AS_TYPED)
        match = await self._run(self._match, forms, encoded or self._dummy)
        return match if encoded else PasswordMatch.NONE

    def is_outdated(self, encoded: str) -> bool:
        """Whether `encoded` was made with other parameters than those in force."""
        return self._hasher.check_needs_rehash(encoded)

    def close(self) -> None:
        """Drop what waits, and let running hashes end."""
        self._threads.shutdown(wait=False, cancel_futures=True)

    def _match(self, forms: Mapping[str, PasswordMatch], encoded: str) -> PasswordMatch:
        for form, match in forms.items():
            with suppress(VerificationError, InvalidHashError):
                self._hasher.verify(encoded, form)
                return match
        return PasswordMatch.NONE

    async def _run(self, function: Callable[P, T], *arguments: P.args, **options: P.kwargs) -> T:
        if not self._places.acquire(blocking=False):
            raise self._refused()
        future = self._threads.submit(function, *arguments, **options)
        # The place is free again when the thread is, even if the caller has left meanwhile.
        future.add_done_callback(lambda _: self._places.release())
        outcome = asyncio.wrap_future(future)
        try:
            await asyncio.wait((outcome,), timeout=self._queue_seconds)
        except asyncio.CancelledError:
            future.cancel()
            raise
        if future.cancel():  # no thread has begun it
            raise self._refused()
        return await outcome

    def _refused(self) -> Unavailable:
        REFUSED.labels("hashing").inc()
        return Unavailable("Too many people are signing in at this moment.")


def _yield_to_event_loop() -> None:
    """Give this thread a lower priority, so that hashes use the processor time that is left over.

    Elsewhere than on Linux a priority belongs to the whole process.
    """
    if sys.platform == "linux":
        with suppress(OSError):
            os.setpriority(os.PRIO_PROCESS, threading.get_native_id(), HASHING_NICENESS)
