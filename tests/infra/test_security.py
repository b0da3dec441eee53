"""Passwords and tokens."""

import asyncio
from collections.abc import Iterator

import pytest
from argon2 import PasswordHasher

from app.errors import Unauthenticated, Unavailable
from app.infra.security import AccessTokens, Passwords
from app.sections import AuthSettings

CHEAP = {"argon2_memory_kib": 64, "argon2_time_cost": 1}


@pytest.fixture
def passwords() -> Iterator[Passwords]:
    made = Passwords(AuthSettings.model_validate(CHEAP))
    yield made
    made.close()


async def test_a_password_matches_its_own_hash_alone(passwords: Passwords) -> None:
    encoded = await passwords.hash("correct horse")
    assert "correct" not in encoded
    assert await passwords.verify("correct horse", encoded)
    assert not await passwords.verify("wrong horse", encoded)
    assert not await passwords.verify("correct horse", None)
    assert not await passwords.verify("correct horse", "not a hash")
    assert await passwords.hash("correct horse") != encoded


async def test_a_hash_of_other_parameters_is_outdated(passwords: Passwords) -> None:
    encoded = await passwords.hash("correct horse")
    assert not passwords.is_outdated(encoded)
    stronger = Passwords(AuthSettings.model_validate({**CHEAP, "argon2_time_cost": 2}))
    assert stronger.is_outdated(encoded)
    stronger.close()


async def test_past_the_queue_hashing_is_refused_at_once() -> None:
    limits = {"hashing_threads": 1, "hashing_queue": 2, "argon2_memory_kib": 8192}
    passwords = Passwords(AuthSettings.model_validate(limits))
    results = await asyncio.gather(
        *(passwords.hash("correct horse") for _ in range(10)), return_exceptions=True
    )
    assert [isinstance(result, str) for result in results] == [True] * 3 + [False] * 7
    assert all(isinstance(result, Unavailable) for result in results[3:])
    assert await passwords.hash("correct horse")  # the places are free again
    passwords.close()


async def test_a_caller_who_leaves_frees_the_place() -> None:
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


def test_a_token_of_another_secret_is_refused() -> None:
    ours = AccessTokens(AuthSettings())
    theirs = AccessTokens(AuthSettings.model_validate({"secret": "x" * 32}))
    assert ours.verify(ours.issue(7)) == 7
    with pytest.raises(Unauthenticated):
        ours.verify(theirs.issue(7))


def test_a_verified_token_is_not_verified_again(monkeypatch: pytest.MonkeyPatch) -> None:
    tokens = AccessTokens(AuthSettings())
    token = tokens.issue(7)
    assert tokens.verify(token) == 7
    monkeypatch.setattr("jwt.decode", None)
    assert tokens.verify(token) == 7


async def test_an_unknown_account_costs_a_hash_too(monkeypatch: pytest.MonkeyPatch) -> None:
    verified = []
    original = PasswordHasher.verify

    def verify(hasher: PasswordHasher, encoded: str, password: str) -> bool:
        verified.append(encoded)
        return original(hasher, encoded, password)

    monkeypatch.setattr(PasswordHasher, "verify", verify)
    passwords = Passwords(AuthSettings.model_validate(CHEAP))
    assert not await passwords.verify("the password of nobody", None)
    assert not await passwords.verify("the password of nobody", "")
    assert [encoded[:10] for encoded in verified] == ["$argon2id$"] * 2
    passwords.close()
