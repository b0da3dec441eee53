"""What `make remove` refuses. The drill removes features."""

import pytest

from dev import remove
from dev.features import features_in_order
from dev.remove import remove_feature
from dev.terminal import CommandError


@pytest.fixture(autouse=True)
def clean_tree(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(remove, "require_clean_tree", lambda: None)


@pytest.mark.parametrize("name", ["users", "auth"])
def test_features_that_all_tests_need_are_refused(name: str) -> None:
    with pytest.raises(CommandError, match=f"`{name}` cannot be removed: the tests of all"):
        remove_feature(name)


def test_unknown_feature_is_refused_with_the_known_ones() -> None:
    removable = [name for name in features_in_order() if name not in {"users", "auth"}]
    with pytest.raises(CommandError, match="There is no feature `nothing`") as refused:
        remove_feature("nothing")
    assert all(name in str(refused.value) for name in removable)
