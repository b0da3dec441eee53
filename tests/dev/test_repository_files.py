"""The files for editors, hooks, continuous integration and GitHub name what exists here."""

import configparser
import json
import re
import tomllib
from pathlib import Path
from typing import Any

import pytest
import yaml

from dev.check import CHECKS
from tests.dev.repository import PROJECT

GITHUB = PROJECT / ".github"
YAML = [*GITHUB.rglob("*.yml"), PROJECT / ".pre-commit-config.yaml"]


def read(path: str) -> str:
    return (PROJECT / path).read_text(encoding="utf-8")


def targets() -> set[str]:
    return set(re.findall(r"^([a-z-]+):", read("Makefile"), re.MULTILINE))


def pyproject() -> Any:
    return tomllib.loads(read("pyproject.toml"))


@pytest.mark.parametrize("path", YAML, ids=lambda path: str(path.relative_to(PROJECT)))
def test_yaml_can_be_read(path: Path) -> None:
    assert yaml.safe_load(path.read_text(encoding="utf-8"))


def test_workflow_runs_what_runs_locally_and_nothing_else() -> None:
    workflow = yaml.safe_load(read(".github/workflows/ci.yml"))
    # YAML 1.1 reads the key `on` as True.
    assert {"push", "pull_request"} <= workflow[True].keys()
    assert workflow["permissions"] == {"contents": "read"}
    assert "secrets." not in read(".github/workflows/ci.yml")
    for job in workflow["jobs"].values():
        assert job["timeout-minutes"]
        assert [step["run"] for step in job["steps"] if "run" in step] == [".ci/run"]
        for step in job["steps"]:
            assert re.fullmatch(r"[\w-]+/[\w-]+@[0-9a-f]{40}", step.get("uses", f"a/b@{'0' * 40}"))
    assert (PROJECT / ".ci" / "run").stat().st_mode & 0o111
    *_, command = read(".ci/run").splitlines()
    make, *run = [word for word in command.split() if not word.startswith("-")][1:]
    assert (make, set(run) <= targets(), "check" in run, "test" in run) == ("make", *[True] * 3)


def test_workflow_tests_the_oldest_version_and_that_of_the_image() -> None:
    workflow = yaml.safe_load(read(".github/workflows/ci.yml"))
    [image] = set(re.findall(r"^FROM python:([\d.]+)", read("Dockerfile"), re.MULTILINE))
    oldest = pyproject()["project"]["requires-python"].removeprefix(">=")
    assert workflow["jobs"]["test"]["strategy"]["matrix"]["python"] == [oldest, image]


def test_hooks_run_checks_that_exist() -> None:
    [repository] = yaml.safe_load(read(".pre-commit-config.yaml"))["repos"]
    assert repository["repo"] == "local"  # so there is one set of versions: that of .venv
    for hook in repository["hooks"]:
        shell, script, name = hook["entry"].split()
        assert (shell, (PROJECT / script).exists(), name in CHECKS) == ("sh", True, True)
        assert re.search(hook["files"], "app/main.py")
        assert re.search(hook["files"], "pyproject.toml")


def test_dev_container_runs_commands_that_exist_with_a_supported_python() -> None:
    container = json.loads(read(".devcontainer/devcontainer.json"))
    make, target = container["postCreateCommand"].split()
    assert (make, target in targets()) == ("make", True)
    assert container["remoteUser"] != "root"
    assert f"#SERVER_PORT={container['forwardPorts'][0]}\n" in read(".env.example")
    version = container["image"].partition(":")[2]
    assert f"FROM python:{version}-slim" in read("Dockerfile")


def test_editors_and_the_formatter_agree() -> None:
    parser = configparser.ConfigParser()
    parser.read_string("[general]\n" + read(".editorconfig"))
    assert parser["*.py"]["max_line_length"] == str(pyproject()["tool"]["ruff"]["line-length"])
    assert parser["Makefile"]["indent_style"] == "tab"


@pytest.mark.parametrize("name", ["bug", "feature"])
def test_form_has_what_github_requires(name: str) -> None:
    form = yaml.safe_load(read(f".github/ISSUE_TEMPLATE/{name}.yml"))
    assert form["name"]
    assert form["description"]
    ids = [field["id"] for field in form["body"] if field["type"] != "markdown"]
    assert len(set(ids)) == len(ids) > 0
    for field in form["body"]:
        assert field["type"] in {"markdown", "textarea", "input", "dropdown", "checkboxes"}
        assert field["attributes"].get("label") or field["type"] == "markdown"
