"""Lists of entity tags in If-Match and If-None-Match."""

import time

import pytest

from app.errors import Stale
from app.infra.validation.preconditions import Precondition

TAG = '"4-0123456789abcdef"'
SPACES = " " * 32_000


@pytest.mark.parametrize(
    "header",
    [f"{TAG}{SPACES}!", f"{TAG},{SPACES}!", f"{SPACES}W/", f'"{"x" * 32_000}', f"{TAG},{SPACES}!,"],
)
def test_malformed_list_is_parsed_in_linear_time(header: str) -> None:
    began = time.thread_time()  # other processes do not lengthen it
    for condition in (Precondition(if_match=header), Precondition(if_none_match=header)):
        with pytest.raises(Stale):
            condition.require(4)
    assert time.thread_time() - began < 1  # with backtracking it took seconds


@pytest.mark.parametrize("separator", [",", f",{SPACES},", f"{SPACES},", ' \t,,\t "a" ,'])
def test_tag_is_found_at_every_position_of_a_list(separator: str) -> None:
    Precondition(if_match=f'"a"{separator}{TAG}').require(4)
    with pytest.raises(Stale):
        Precondition(if_none_match=f'"a"{separator}W/{TAG}').require(4)
