"""Cryptography: passwords are hashed with Argon2id off the event loop, access tokens are JWTs."""

import asyncio
import os
import sys
import threading
from collections.abc import Callable, Mapping
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from datetime import UTC, datetime, timedelta
from enum import IntEnum
from threading import BoundedSemaphore
from typing import ParamSpec, TypeVar

import jwt
from argon2 import PasswordHasher
from argon2.exceptions import InvalidHashError, VerificationError
from cachetools import LRUCache

from app.errors import Unauthenticated, Unavailable
from app.infra.inputs import MAX_ID, normalise_password
from app.infra.metrics import REFUSED
from app.sections import AuthSettings

P = ParamSpec("P")
T = TypeVar("T")

ALGORITHM = "HS256"
TOKEN_TYPE = "access"
REQUIRED_CLAIMS = ["aud", "exp", "iat", "iss", "sub", "typ"]
LONGEST_TOKEN = 1024
CLOCK_LEEWAY_SECONDS = 10  # between the clocks of replicas, for iat; exp is checked without it
REMEMBERED_TOKENS = 10_000
HASHING_NICENESS = 5  # a third of the processor time of a thread with the usual priority


class Match(IntEnum):
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

    async def verify(self, password: str, encoded: str | None) -> Match:
        """Whether `password`, normalised or as it was typed, has the hash `encoded`.

        No hash takes as long as one with the parameters in force, and never matches.
        """
        forms = {normalise_password(password) or password: Match.NORMALISED}
        forms.setdefault(password, Match.AS_TYPED)
        match = await self._run(self._match, forms, encoded or self._dummy)
        return match if encoded else Match.NONE

    def is_outdated(self, encoded: str) -> bool:
        """Whether `encoded` was made with other parameters than those in force."""
        return self._hasher.check_needs_rehash(encoded)

    def close(self) -> None:
        """Drop what waits, and let running hashes end."""
        self._threads.shutdown(wait=False, cancel_futures=True)

    def _match(self, forms: Mapping[str, Match], encoded: str) -> Match:
        for form, match in forms.items():
            with suppress(VerificationError, InvalidHashError):
                self._hasher.verify(encoded, form)
                return match
        return Match.NONE

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


class AccessTokens:
    """Short-lived JWTs, signed with HS256. One that was verified is remembered until it expires."""

    def __init__(self, settings: AuthSettings) -> None:
        self._settings = settings
        self._key = settings.secret.get_secret_value()
        self._verified: LRUCache[str, tuple[int, float]] = LRUCache(REMEMBERED_TOKENS)

    def issue(self, user_id: int) -> str:
        """Return a token that says "this is user `user_id`" for `access_token_seconds`."""
        now = datetime.now(UTC)
        claims = {
            "sub": str(user_id),
            "typ": TOKEN_TYPE,
            "iss": self._settings.issuer,
            "aud": self._settings.audience,
            "iat": now,
            "exp": now + timedelta(seconds=self._settings.access_token_seconds),
        }
        return jwt.encode(claims, self._key, ALGORITHM)

    def verify(self, token: str) -> int:
        """Return the user's id, or raise `Unauthenticated` for anything that we did not issue."""
        user_id, expires_at = self._verified.get(token) or self._verify(token)
        if expires_at <= datetime.now(UTC).timestamp():
            raise Unauthenticated("The access token has expired.")
        self._verified[token] = user_id, expires_at
        return user_id

    def _verify(self, token: str) -> tuple[int, float]:
        try:
            if len(token) > LONGEST_TOKEN:
                raise ValueError("length")
            claims = jwt.decode(
                token,
                self._key,
                algorithms=[ALGORITHM],
                issuer=self._settings.issuer,
                audience=self._settings.audience,
                leeway=CLOCK_LEEWAY_SECONDS,
                options={"require": REQUIRED_CLAIMS},
            )
            user_id = int(claims["sub"])
            if claims["typ"] != TOKEN_TYPE or not 1 <= user_id <= MAX_ID:
                raise ValueError("not a claim of ours")
            return user_id, float(claims["exp"])
        except (jwt.InvalidTokenError, ValueError):
            raise Unauthenticated("The access token is not valid.") from None
