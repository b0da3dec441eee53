"""The rules for every rate limit that a route declares."""

from pathlib import Path

import pytest

from app.infra.rate_limits.limit import By, Limit
from app.infra.rate_limits.settings import RateLimitSettings
from app.infra.web.rate_limited import ADDRESS, READS, WRITES
from tests.quotas import declared_limits

LIMITS = declared_limits()
DEFAULTS = (ADDRESS, READS, WRITES)
PAGE = Path(__file__).parents[2] / "docs/limits.md"


@pytest.mark.parametrize("limit", LIMITS.values(), ids=LIMITS.keys())
def test_the_quota_for_all_reaches_the_default_limits_only(limit: Limit) -> None:
    declared, for_all = (limit.quota, limit.seconds), (1_000_000, 1)
    settings = RateLimitSettings(quotas="*=1000000/1")
    assert settings.quota_of(limit) == (for_all if limit in DEFAULTS else declared)
    named = RateLimitSettings(quotas=f"*=1000000/1,{limit.name}=7/3")
    assert named.quota_of(limit) == (7, 3)


def test_no_limit_by_account_is_a_default_limit() -> None:
    assert all(limit.by is not By.ACCOUNT for limit in DEFAULTS)
    assert any(limit.by is By.ACCOUNT for limit in LIMITS.values())


@pytest.mark.parametrize("limit", LIMITS.values(), ids=LIMITS.keys())
def test_the_page_of_the_limits_lists_it(limit: Limit) -> None:
    rows = [
        line
        for line in PAGE.read_text(encoding="utf-8").splitlines()
        if line.endswith(f"| `{limit.name}` |")
    ]
    assert len(rows) == 1, f"docs/limits.md has no row for the limit `{limit.name}`"
    assert f"| {limit.quota:,} in " in rows[0]
