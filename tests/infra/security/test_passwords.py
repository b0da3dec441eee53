"""Password hashes."""

import asyncio
import os
import sys
import threading
from collections.abc import Iterator

import pytest
from argon2 import PasswordHasher
from prometheus_client import REGISTRY

from app.errors import Unavailable
from app.infra.security.passwords import PasswordMatch, Passwords
from app.infra.security.settings import AuthSettings

CHEAP = {"argon2_memory_kib": 64, "argon2_time_cost": 1, "hashing_queue_seconds": 60}
# The same eight characters, composed and decomposed, and with two kinds of space.
TYPED = ["caf\u00e9 bar", "cafe\u0301\u3000bar", "caf\u00e9\u00a0bar"]
NORMALISED = TYPED[0]


def refused() -> float:
    """Return how many requests were refused because too many passwords wait."""
    return REGISTRY.get_sample_value("http_requests_refused_total", {"limit": "hashing"}) or 0.0


def in_threads(state: str) -> float | None:
    return REGISTRY.get_sample_value("threads", {"pool": "passwords", "state": state})


@pytest.fixture
def passwords() -> Iterator[Passwords]:
    made = Passwords(AuthSettings.model_validate(CHEAP))
    yield made
    made.close()


async def test_password_matches_only_its_own_hash(passwords: Passwords) -> None:
    encoded = await passwords.hash("correct horse")
    assert "correct" not in encoded
    assert await passwords.verify("correct horse", encoded)
    assert not await passwords.verify("wrong horse", encoded)
    assert not await passwords.verify("correct horse", None)
    assert not await passwords.verify("correct horse", "not a hash")
    assert await passwords.hash("correct horse") != encoded


async def test_hash_with_other_parameters_is_outdated(passwords: Passwords) -> None:
    encoded = await passwords.hash("correct horse")
    assert not passwords.is_outdated(encoded)
    stronger = Passwords(AuthSettings.model_validate({**CHEAP, "argon2_time_cost": 2}))
    assert stronger.is_outdated(encoded)
    stronger.close()


async def test_hashing_is_refused_immediately_when_the_queue_is_full() -> None:
    limits = {**CHEAP, "hashing_threads": 1, "hashing_queue": 2, "argon2_memory_kib": 8192}
    passwords = Passwords(AuthSettings.model_validate(limits))
    results = await asyncio.gather(
        *(passwords.hash("correct horse") for _ in range(10)), return_exceptions=True
    )
    assert [isinstance(result, str) for result in results] == [True] * 3 + [False] * 7
    assert all(isinstance(result, Unavailable) for result in results[3:])
    assert await passwords.hash("correct horse")  # the slots are free again
    passwords.close()


async def test_new_hash_of_a_login_that_succeeds_is_not_counted_as_refused() -> None:
    limits = {**CHEAP, "hashing_threads": 1, "hashing_queue": 1}
    passwords = Passwords(AuthSettings.model_validate(limits))
    ends = threading.Event()
    running = asyncio.gather(passwords._threads.run(ends.wait), passwords._threads.run(ends.wait))
    await asyncio.sleep(0)
    before = refused()
    try:
        assert await passwords.rehash("correct horse") is None
        assert refused() == before
        for call in (passwords.hash("correct horse"), passwords.verify("correct horse", None)):
            with pytest.raises(Unavailable):
                await call
        assert refused() == before + 2
    finally:
        ends.set()
        await running
        passwords.close()


async def test_hash_that_waits_too_long_for_a_thread_is_refused() -> None:
    limits = {**CHEAP, "hashing_threads": 1, "hashing_queue": 1, "hashing_queue_seconds": 0.01}
    passwords = Passwords(AuthSettings.model_validate(limits))
    ends = threading.Event()
    running = asyncio.create_task(passwords._threads.run(ends.wait))
    await asyncio.sleep(0)
    for _ in range(3):  # the slot of the refused call is free again
        async with asyncio.timeout(60):
            with pytest.raises(Unavailable, match="Too many passwords are being checked"):
                await passwords.hash("correct horse")
    ends.set()
    assert await running  # a hash that has started is completed
    passwords.close()


async def test_hashes_that_run_and_wait_are_measured_and_close_refuses_those_that_wait() -> None:
    limits = {**CHEAP, "hashing_threads": 1, "hashing_queue": 1}
    passwords = Passwords(AuthSettings.model_validate(limits))
    begun, ends = threading.Event(), threading.Event()

    def block() -> bool:
        begun.set()
        return ends.wait(60)

    running = asyncio.create_task(passwords._threads.run(block))
    try:
        assert await asyncio.to_thread(begun.wait, 60)
        waiting = asyncio.create_task(passwords.hash("correct horse"))
        await asyncio.sleep(0)
        passwords.measure()
        assert [in_threads("busy"), in_threads("waiting")] == [1, 1]
        passwords.close()
        async with asyncio.timeout(30):
            with pytest.raises(Unavailable):
                await waiting
    finally:
        ends.set()
        assert await running


@pytest.mark.skipif(sys.platform != "linux", reason="only Linux has a priority for each thread")
async def test_hashing_threads_have_a_lower_priority(passwords: Passwords) -> None:
    hashing = await passwords._threads.run(
        lambda: os.getpriority(os.PRIO_PROCESS, threading.get_native_id())
    )
    assert hashing > os.getpriority(os.PRIO_PROCESS, threading.get_native_id())


async def test_password_matches_in_every_unicode_form(passwords: Passwords) -> None:
    encoded = await passwords.hash(TYPED[1])
    for typed in TYPED:
        assert await passwords.verify(typed, encoded) is PasswordMatch.NORMALISED
    assert not await passwords.verify("cafe bar", encoded)


async def test_password_from_before_normalisation_that_has_no_normal_form_is_hashed_as_typed(
    passwords: Passwords,
) -> None:
    typed = "correct\thorse"
    encoded = await passwords.rehash(typed)
    assert await passwords.verify(typed, encoded)
    assert not await passwords.verify("correct horse", encoded)


async def test_hash_from_before_normalisation_matches_the_typed_form(
    passwords: Passwords,
) -> None:
    encoded = PasswordHasher(memory_cost=64, time_cost=1).hash(TYPED[1])
    assert await passwords.verify(TYPED[1], encoded) is PasswordMatch.AS_TYPED
    assert not await passwords.verify(TYPED[0], encoded)


@pytest.mark.parametrize(("typed", "hashes"), [(TYPED[0], 1), (TYPED[1], 2)])
async def test_unknown_account_costs_as_many_hashes_as_a_wrong_password(
    passwords: Passwords, monkeypatch: pytest.MonkeyPatch, typed: str, hashes: int
) -> None:
    encoded = await passwords.hash("another password")
    verified: list[str] = []
    original = PasswordHasher.verify

    def verify(hasher: PasswordHasher, encoded: str, password: str) -> bool:
        verified.append(password)
        return original(hasher, encoded, password)

    monkeypatch.setattr(PasswordHasher, "verify", verify)
    for known in (encoded, None):
        verified.clear()
        assert not await passwords.verify(typed, known)
        assert len(verified) == hashes


async def test_cancelled_call_frees_its_place() -> None:
    limits = {**CHEAP, "hashing_threads": 1, "hashing_queue": 1}
    passwords = Passwords(AuthSettings.model_validate(limits))
    for _ in range(10):
        task = asyncio.create_task(passwords.hash("correct horse"))
        await asyncio.sleep(0)
        task.cancel()
        await asyncio.gather(task, return_exceptions=True)
        await asyncio.sleep(0.01)
    assert await passwords.hash("correct horse")
    passwords.close()


async def test_unknown_account_costs_a_hash(monkeypatch: pytest.MonkeyPatch) -> None:
    verified = []
    original = PasswordHasher.verify

    def verify(hasher: PasswordHasher, encoded: str, password: str) -> bool:
        verified.append(encoded)
        return original(hasher, encoded, password)

    monkeypatch.setattr(PasswordHasher, "verify", verify)
    passwords = Passwords(AuthSettings.model_validate(CHEAP))
    assert not await passwords.verify("a password for unknown accounts", None)
    assert not await passwords.verify("a password for unknown accounts", "")
    assert [encoded[:10] for encoded in verified] == ["$argon2id$"] * 2
    passwords.close()
