"""`make openapi` writes the API document, and `make client` a client that can be used."""

import json
import subprocess
import sys
from pathlib import Path

import pytest

from dev import openapi
from dev.rename import current_name
from dev.terminal import CommandError
from tests.contract.generated_client import package_of
from tests.dev.repository import PROJECT

# A function that uses the client like a consumer of the API.
CONSUMER = """
from {package} import Client
from {package}.api.users import read_user
from {package}.models import Problem, User


def name_of(user_id: int) -> str | None:
    with Client("http://127.0.0.1:1") as client:
        found = read_user.sync(user_id, client=client)
    if isinstance(found, User):
        return found.name
    assert found is None or isinstance(found, Problem)
    return None
"""


@pytest.fixture(scope="module")
def client(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("clients") / "python"
    openapi.write_client(folder)
    return folder


def test_document_that_is_written_is_the_agreed_one(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    agreed = (PROJECT / openapi.DOCUMENT).read_text(encoding="utf-8")
    (tmp_path / openapi.DOCUMENT).parent.mkdir(parents=True)
    monkeypatch.setattr(openapi, "ROOT", tmp_path)
    openapi.write_document()
    assert (tmp_path / openapi.DOCUMENT).read_text(encoding="utf-8") == agreed


def test_types_of_the_client_are_correct(client: Path, tmp_path: Path) -> None:
    consumer = tmp_path / "consumer.py"
    consumer.write_text(CONSUMER.format(package=package_of(client)), encoding="utf-8")
    command = [sys.executable, "-m", "mypy", "--strict", "--config-file=", "--cache-dir"]
    checked = subprocess.run(
        [*command, str(tmp_path / "cache"), package_of(client), str(consumer)],
        cwd=client,
        capture_output=True,
        check=False,
        encoding="utf-8",
    )
    assert checked.returncode == 0, checked.stdout + checked.stderr


def test_client_is_a_package_with_the_name_of_the_project(client: Path) -> None:
    assert package_of(client) == f"{current_name()}_client".replace("-", "_")
    files = {path.name for path in client.iterdir()}
    assert files >= {"pyproject.toml", "README.md", package_of(client)}
    assert (client / package_of(client) / "py.typed").exists()


def test_second_run_replaces_the_client(client: Path) -> None:
    (client / package_of(client) / "old.py").touch()
    openapi.write_client(client)
    assert not (client / package_of(client) / "old.py").exists()


def test_client_is_kept_if_no_new_one_can_be_generated(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / openapi.DOCUMENT).parent.mkdir(parents=True)
    (tmp_path / openapi.DOCUMENT).write_text(json.dumps({"openapi": "3.1.0"}), encoding="utf-8")
    monkeypatch.setattr(openapi, "ROOT", tmp_path)
    old = tmp_path / openapi.CLIENT / "old.py"
    old.parent.mkdir(parents=True)
    old.touch()
    with pytest.raises(CommandError, match="not generated"):
        openapi.write_client(old.parent)
    assert old.exists()


def test_git_ignores_the_client() -> None:
    command = ["git", "check-ignore", "-q", f"{openapi.CLIENT}/README.md"]
    assert subprocess.run(command, cwd=PROJECT, check=False).returncode == 0
