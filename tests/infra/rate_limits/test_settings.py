"""RATE_LIMITS_QUOTAS replaces the quotas that the code declares."""

import pytest
from pydantic import ValidationError

from app.infra.rate_limits.limit import Limit
from app.infra.rate_limits.settings import RateLimitSettings

DEFAULT = Limit("reads", quota=5, seconds=60, is_default=True)
OWN = Limit("logins", quota=5, seconds=60)


@pytest.mark.parametrize(
    "quotas", ["logins", "logins=5", "logins=0/60", "logins=5/0", "a=1/1,", "a=1/1;b=1/1", "A=1/1"]
)
def test_quotas_that_cannot_be_read_are_refused(quotas: str) -> None:
    with pytest.raises(ValidationError, match="separated by commas"):
        RateLimitSettings(quotas=quotas)


def test_at_most_a_million_requests_in_a_second_are_counted() -> None:
    assert RateLimitSettings(quotas="logins=2000000/2").quota_of(OWN) == (2_000_000, 2)
    with pytest.raises(ValidationError, match="at most a million"):
        RateLimitSettings(quotas="logins=2000001/2")


def test_only_default_limits_have_the_quota_of_all() -> None:
    settings = RateLimitSettings(quotas="*=7/3")
    assert settings.quota_of(DEFAULT) == (7, 3)
    assert settings.quota_of(OWN) == (5, 60)


def test_quota_of_a_name_replaces_that_of_all() -> None:
    settings = RateLimitSettings(quotas="*=7/3, reads=8/4, logins=9/2")
    assert settings.quota_of(DEFAULT) == (8, 4)
    assert settings.quota_of(OWN) == (9, 2)


def test_url_that_no_client_of_valkey_understands_is_refused() -> None:
    with pytest.raises(ValidationError):
        RateLimitSettings.model_validate({"url": "http://127.0.0.1"})
