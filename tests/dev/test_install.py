"""The installation of the packages in .venv."""

from pathlib import Path

import pytest

from dev import install
from dev.terminal import CommandError


def test_a_linked_environment_is_not_emptied(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "other").mkdir()
    (tmp_path / "other/file").touch()
    (tmp_path / ".venv").symlink_to("other")
    monkeypatch.chdir(tmp_path)
    with pytest.raises(CommandError, match="Remove the link"):
        install.main(f"{tmp_path}\n0")
    assert (tmp_path / "other/file").exists()
