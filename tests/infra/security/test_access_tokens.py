"""Access tokens."""

from datetime import datetime, timedelta
from types import SimpleNamespace

import pytest

from app.errors import Unauthenticated
from app.infra.security import access_tokens
from app.infra.security.access_tokens import AccessTokens
from app.infra.security.settings import AuthSettings


def test_token_signed_with_another_secret_is_refused() -> None:
    ours = AccessTokens(AuthSettings())
    theirs = AccessTokens(AuthSettings.model_validate({"secret": "x" * 32}))
    assert ours.verify(ours.issue(7, 3))[:2] == (7, 3)
    with pytest.raises(Unauthenticated):
        ours.verify(theirs.issue(7, 3))


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
