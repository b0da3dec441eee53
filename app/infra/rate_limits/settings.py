"""The settings RATE_LIMITS_…."""

import re

from pydantic import SecretStr, field_validator

from app.infra.rate_limits.limit import MICROSECONDS, NAME, Limit
from app.infra.settings_base.section import Seconds, Section
from app.infra.settings_base.urls import valkey_url

ALL = "*"
QUOTA = re.compile(rf"(\*|{NAME.pattern})=([1-9][0-9]{{0,8}})/([1-9][0-9]{{0,6}})")


class RateLimitSettings(Section):
    """`url` is a Valkey that does not evict keys.

    None means VALKEY_URL if the cache uses it and it is no cluster. Otherwise each worker counts
    its share.

    `quotas` replaces quotas that the code declares: `logins=20/60,*=1000/60` means 20 requests in
    60 seconds for the limit `logins`, and 1,000 for each default limit. `*` changes no other limit,
    because those protect accounts.
    """

    url: SecretStr | None = None
    timeout_seconds: Seconds = 0.1
    quotas: str = ""

    @field_validator("url")
    @classmethod
    def _convert_url(cls, url: SecretStr | None) -> SecretStr | None:
        return url and SecretStr(valkey_url(url.get_secret_value()))

    @field_validator("quotas")
    @classmethod
    def _check_quotas(cls, quotas: str) -> str:
        if quotas and not all(map(_is_quota, quotas.split(","))):
            raise ValueError(
                "name=requests/seconds, separated by commas, with at most a million requests in a "
                "second: logins=20/60,*=1000/60"
            )
        return quotas

    @property
    def by_name(self) -> dict[str, tuple[int, int]]:
        """Return the quotas and their seconds by the names of the limits."""
        found = [QUOTA.fullmatch(text.strip()) for text in self.quotas.split(",")]
        return {match[1]: (int(match[2]), int(match[3])) for match in found if match}

    def quota_of(self, limit: Limit) -> tuple[int, int]:
        """Return the quota of a limit and its seconds."""
        by_name, declared = self.by_name, (limit.quota, limit.seconds)
        default = by_name.get(ALL, declared) if limit.is_default else declared
        return by_name.get(limit.name, default)


def _is_quota(text: str) -> bool:
    found = QUOTA.fullmatch(text.strip())
    return found is not None and int(found[2]) <= MICROSECONDS * int(found[3])
