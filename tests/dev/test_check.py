"""`make check` runs all tools, whatever fails, and says what failed and what to do."""

import subprocess
import sys
from pathlib import Path

import pytest

from dev import check
from dev.check import CHECKS
from dev.terminal import CommandError
from tests.dev.repository import PROJECT, git

CODE = "import os\nnumber: int = 'one'\n"


@pytest.fixture
def project(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A small project with the four tools, whose code has one mistake for each of three of them."""
    package = tmp_path / "app"
    package.mkdir()
    for name, text in {"__init__": "", "low": CODE, "high": "x = 1\n"}.items():
        (package / f"{name}.py").write_text(text, encoding="utf-8")
    (tmp_path / "pyproject.toml").write_text(
        '[tool.mypy]\nfiles = ["app"]\n'
        '[tool.importlinter]\nroot_package = "app"\n'
        '[[tool.importlinter.contracts]]\nname = "Low does not import high"\ntype = "forbidden"\n'
        'source_modules = ["app.low"]\nforbidden_modules = ["app.high"]\n',
        encoding="utf-8",
    )
    monkeypatch.setattr(check, "ROOT", tmp_path)
    return tmp_path


def test_all_failures_are_shown_with_their_cures(
    project: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    with pytest.raises(CommandError) as error:
        check.check(CHECKS)
    said = capsys.readouterr().out
    assert "imports  passed" in said
    for name, mistake in {
        "format": "1 file would be reformatted",
        "lint": "`os` imported but unused",
        "types": "Incompatible types in assignment",
    }.items():
        assert f"{name:8} failed" in said
        assert mistake in said
        assert f"{name:8} {CHECKS[name].cure}" in str(error.value)
    assert CHECKS["imports"].cure not in str(error.value)


def test_broken_contract_is_shown(project: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (project / "app" / "low.py").write_text("import app.high as high\n", encoding="utf-8")
    with pytest.raises(CommandError, match="imports"):
        check.check(["imports"])
    assert "app.low -> app.high" in capsys.readouterr().out


def test_nothing_is_raised_if_all_pass(project: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (project / "app" / "low.py").write_text("x = 1\n", encoding="utf-8")
    check.check(CHECKS)
    assert capsys.readouterr().out.count("passed") == len(CHECKS)


def test_environment_without_the_tools_is_named_with_its_cure(
    project: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(check, "find_spec", lambda _: None)
    with pytest.raises(CommandError, match=r"importlinter, mypy, ruff\. Run: make environment"):
        check.check(CHECKS)


def test_exit_status_tells_a_failure(tmp_path: Path) -> None:
    """The command runs in a copy whose only file is broken."""
    copy = tmp_path / "dev"
    copy.mkdir()
    for name in ("check.py", "terminal.py"):
        (copy / name).write_text((PROJECT / "dev" / name).read_text(encoding="utf-8"), "utf-8")
    (tmp_path / "broken.py").write_text("x =\n", encoding="utf-8")
    for name in ("format", "lint"):
        command = [sys.executable, "-m", "dev.check", name]
        done = subprocess.run(
            command, cwd=tmp_path, capture_output=True, text=True, encoding="utf-8", check=False
        )
        assert done.returncode == 1
        assert f"{name:8} {CHECKS[name].cure}" in done.stderr


def test_hook_without_an_environment_says_how_to_make_it(tmp_path: Path) -> None:
    git("clone", "-q", str(PROJECT), str(tmp_path / "clone"), cwd=tmp_path)
    hook = (PROJECT / "dev" / "hook.sh").read_text(encoding="utf-8")
    (tmp_path / "clone" / "dev" / "hook.sh").write_text(hook, encoding="utf-8")
    done = subprocess.run(
        ["sh", "dev/hook.sh", "lint"],
        cwd=tmp_path / "clone",
        capture_output=True,
        encoding="utf-8",
        check=False,
    )
    assert done.returncode == 1
    assert "make environment" in done.stderr
