"""Access tokens."""

import time
from datetime import datetime, timedelta
from types import SimpleNamespace

import jwt
import pytest

from app.errors import Unauthenticated
from app.infra.security import access_tokens
from app.infra.security.access_tokens import ALGORITHM, MAX_TOKEN_LENGTH, AccessTokens
from app.infra.security.settings import AuthSettings


def test_token_signed_with_another_secret_is_refused() -> None:
    ours = AccessTokens(AuthSettings())
    theirs = AccessTokens(AuthSettings.model_validate({"secret": "x" * 32}))
    assert ours.verify(ours.issue(7, 3))[:2] == (7, 3)
    with pytest.raises(Unauthenticated):
        ours.verify(theirs.issue(7, 3))


def test_token_longer_than_the_limit_is_refused_even_if_its_signature_is_right() -> None:
    tokens = AccessTokens(AuthSettings())
    claims = jwt.decode(tokens.issue(7, 1), options={"verify_signature": False})
    for length, accepted in ((10, True), (MAX_TOKEN_LENGTH, False)):
        secret = AuthSettings().secret.get_secret_value()
        token = jwt.encode({**claims, "more": "x" * length}, secret, ALGORITHM)
        if accepted:
            assert tokens.verify(token).user_id == 7
        else:
            with pytest.raises(Unauthenticated):
                tokens.verify(token)


@pytest.mark.parametrize(("seconds", "accepted"), [(8, True), (15, False)])
def test_clocks_of_two_replicas_can_differ_by_ten_seconds(
    seconds: int, accepted: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    tokens = AccessTokens(AuthSettings())

    ahead = SimpleNamespace(now=lambda zone: datetime.now(zone) + timedelta(seconds=seconds))
    with monkeypatch.context() as other_replica:
        other_replica.setattr(access_tokens, "datetime", ahead)
        token = tokens.issue(7, 1)
    if accepted:
        assert tokens.verify(token).user_id == 7
    else:
        with pytest.raises(Unauthenticated):
            tokens.verify(token)


def test_verified_token_is_not_verified_again(monkeypatch: pytest.MonkeyPatch) -> None:
    tokens = AccessTokens(AuthSettings())
    token = tokens.issue(7, 1)
    assert tokens.verify(token).user_id == 7
    monkeypatch.setattr("jwt.decode", None)
    assert tokens.verify(token).user_id == 7


def test_verified_token_is_refused_when_it_has_expired(monkeypatch: pytest.MonkeyPatch) -> None:
    settings = AuthSettings()
    tokens = AccessTokens(settings)
    token = tokens.issue(7, 1)
    assert tokens.verify(token).user_id == 7
    later = time.time() + settings.access_token_seconds
    monkeypatch.setattr(access_tokens, "time", SimpleNamespace(time=lambda: later))
    with pytest.raises(Unauthenticated, match="has expired"):
        tokens.verify(token)
