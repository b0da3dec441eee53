"""A limit that cannot work is refused where it is declared."""

import re

import pytest

from app.infra.rate_limits.limit import Limit


@pytest.mark.parametrize("name", ["", "New", 'a"b', "a b", "a\r\nb", "é", "1a", "*"])
def test_a_name_fits_into_a_header_and_into_the_setting(name: str) -> None:
    with pytest.raises(ValueError, match=f"{re.escape(repr(name))} has to be lower-case"):
        Limit(name, quota=1, seconds=1)


@pytest.mark.parametrize(("quota", "seconds"), [(0, 1), (-1, 1), (1, 0), (1, -1), (1_000_001, 1)])
def test_a_quota_is_positive_and_can_be_counted(quota: int, seconds: int) -> None:
    with pytest.raises(ValueError, match="'few' has to allow at least one request"):
        Limit("few", quota, seconds)
