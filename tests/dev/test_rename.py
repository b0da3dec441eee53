"""The project is renamed wherever its name stands, and nowhere else."""

import json
import re
import shutil
import subprocess
import sys
import tomllib
from pathlib import Path

import pytest
import yaml

from dev.rename import copier_source, parse_name, rename, title_of
from dev.terminal import CommandError
from tests.dev.repository import PROJECT, commit, copy_repository, git

TEMPLATE = "-".join(["fastapi", "reference", "service"])  # in parts, so that no search finds it
NAME = tomllib.loads((PROJECT / "pyproject.toml").read_text(encoding="utf-8"))["project"]["name"]

# A renamed project is free to give these places names of their own.
pytestmark = pytest.mark.skipif(NAME != TEMPLATE, reason="the project was renamed")


@pytest.fixture(scope="module")
def template(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Return a repository that contains the files of this one, with the tag v0.1.0."""
    folder = tmp_path_factory.mktemp("template")
    copy_repository(folder)
    git("tag", "v0.1.0", cwd=folder)
    return folder


@pytest.fixture
def clone(template: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Return a clone of the template, as the current directory."""
    folder = tmp_path / "clone"
    git("clone", "-q", str(template), str(folder), cwd=template)
    monkeypatch.chdir(folder)
    return folder


def read(folder: Path, path: str) -> str:
    return (folder / path).read_text(encoding="utf-8")


def files_with(*words: str, folder: Path) -> set[str]:
    """Return the tracked files that contain one of the words, in upper or lower case."""
    return {
        name
        for name in git("ls-files", "-z", cwd=folder).split("\0")
        if name
        and any(word.lower().encode() in (folder / name).read_bytes().lower() for word in words)
    }


def names_of(folder: Path) -> set[str]:
    """Return the names that the parts of the project use."""
    pyproject = tomllib.loads(read(folder, "pyproject.toml"))
    compose = yaml.safe_load(read(folder, "docker-compose.yml"))
    kubernetes = folder / "deploy" / "kubernetes"
    base = yaml.safe_load(read(kubernetes, "base/kustomization.yaml"))
    *_, policy = yaml.safe_load_all(read(kubernetes, "base/network-policy.yaml"))
    valkey = yaml.safe_load(read(kubernetes, "components/valkey/kustomization.yaml"))
    production = yaml.safe_load(read(kubernetes, "overlays/production/kustomization.yaml"))
    label = "app.kubernetes.io/part-of"
    settings = read(folder, "app/infra/security/settings.py")
    return {
        pyproject["project"]["name"],
        compose["services"]["app"]["image"],
        compose["services"]["migrate"]["image"],
        base["labels"][0]["pairs"][label],
        valkey["labels"][0]["pairs"][label],
        policy["spec"]["podSelector"]["matchLabels"][label],
        production["namespace"],
        production["images"][0]["newName"].rpartition("/")[2],
        json.loads(read(folder, "deploy/grafana/service.json"))["uid"],
        *re.findall(r'(?:issuer|audience): str = "(.*)"', settings),
        *re.findall(
            r"^#AUTH_(?:ISSUER|AUDIENCE)=(.*)$", read(folder, ".env.example"), re.MULTILINE
        ),
        *re.findall(r"kubectl -n (\S+)", read(folder, "docs/deployment/kubernetes.md")),
        *re.findall(
            r"middlewares: (\S+)-no-upgrade@",
            read(kubernetes, "components/ingress/ingress.yaml"),
        ),
    }


def titles_of(folder: Path) -> set[str]:
    """Return the titles that the parts of the project use."""
    return {
        read(folder, "README.md").partition("\n")[0].removeprefix("# "),
        json.loads(read(folder, "tests/contract/openapi.json"))["info"]["title"],
        json.loads(read(folder, "deploy/grafana/service.json"))["title"],
        json.loads(read(folder, ".devcontainer/devcontainer.json"))["name"],
        *re.findall(r'\btitle="(.*)"', read(folder, "app/main.py")),
    }


def test_all_parts_of_the_project_use_one_name() -> None:
    assert names_of(PROJECT) == {NAME}
    assert titles_of(PROJECT) == {title_of(NAME)}


def test_no_place_keeps_the_old_name(clone: Path) -> None:
    rename("other_name")
    assert names_of(clone) == {"other-name"}
    assert titles_of(clone) == {"Other name"}
    history = {"CHANGELOG.md", *(f"docs/decisions/{file.name}" for file in records(clone))}
    assert files_with(NAME, NAME.replace("-", "_"), title_of(NAME), folder=clone) <= history
    assert git("diff", "--name-only", "--", "docs/decisions", "CHANGELOG.md", cwd=clone) == ""


def records(folder: Path) -> list[Path]:
    return list((folder / "docs" / "decisions").glob("*.md"))


def test_a_second_rename_leaves_words_that_only_look_like_the_name(clone: Path) -> None:
    rename("posts")
    commit(clone)
    rename("other-name")
    assert names_of(clone) == {"other-name"}
    assert titles_of(clone) == {"Other name"}
    router = "app/features/posts/routes.py"
    assert read(clone, router) == read(PROJECT, router)


def test_renaming_back_restores_every_file(clone: Path) -> None:
    rename("other-name")
    commit(clone)
    rename(NAME)
    commit(clone)
    assert git("diff", "--name-only", "origin/main", cwd=clone).split() == [".copier-answers.yml"]


def test_the_command_says_which_files_it_changed(
    clone: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    rename("other-name")
    said = capsys.readouterr().out
    for name in git("diff", "--name-only", cwd=clone).split():
        assert name in said


def test_the_command_names_the_files_that_it_cannot_judge(
    clone: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (clone / "docs" / "notes.md").write_text(f"How to run {NAME} at home\n", encoding="utf-8")
    commit(clone)
    rename("other-name")
    said = capsys.readouterr().out
    assert "still contain" in said
    assert "docs/notes.md" in said


def test_a_place_that_was_changed_by_hand_is_left_alone(
    clone: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    main = clone / "app" / "main.py"
    text = read(clone, "app/main.py").replace(title_of(NAME), "The desk")
    main.write_text(text, encoding="utf-8")
    commit(clone)
    rename("other-name")
    assert 'title="The desk"' in read(clone, "app/main.py")
    assert "app/main.py: nothing matches" in capsys.readouterr().out


def test_a_tree_with_changes_is_refused(clone: Path) -> None:
    (clone / "notes.txt").touch()
    with pytest.raises(CommandError, match=r"notes\.txt"):
        rename("other-name")
    assert names_of(clone) == {NAME}


def test_a_folder_without_a_repository_is_refused(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("GIT_CEILING_DIRECTORIES", str(tmp_path.parent))
    monkeypatch.chdir(tmp_path)
    with pytest.raises(CommandError, match="git init"):
        rename("other-name")


def test_the_template_is_recorded_for_copier(clone: Path, template: Path) -> None:
    rename("other-name")
    answers = yaml.safe_load(read(clone, ".copier-answers.yml"))
    assert answers == {"_commit": "v0.1.0", "_src_path": str(template), "name": "other-name"}


def test_commits_of_the_project_are_not_taken_for_the_template_s(clone: Path) -> None:
    (clone / "notes.txt").touch()
    commit(clone)
    rename("other-name")
    assert yaml.safe_load(read(clone, ".copier-answers.yml"))["_commit"] == "v0.1.0"


def test_a_project_with_a_new_history_began_with_its_version(clone: Path) -> None:
    shutil.rmtree(clone / ".git")
    git("init", "-q", cwd=clone)
    commit(clone)
    rename("other-name", template="https://example.com/template.git")
    version = tomllib.loads(read(clone, "pyproject.toml"))["project"]["version"]
    answers = yaml.safe_load(read(clone, ".copier-answers.yml"))
    assert answers["_commit"] == f"v{version}"
    assert answers["_src_path"] == "https://example.com/template.git"


def test_a_second_rename_changes_only_the_name_that_copier_knows(clone: Path) -> None:
    rename("other-name", template="https://example.com/template.git")
    commit(clone)
    rename("billing")
    answers = yaml.safe_load(read(clone, ".copier-answers.yml"))
    assert answers["_src_path"] == "https://example.com/template.git"
    assert answers["name"] == "billing"


def test_the_template_can_be_named_later(clone: Path, capsys: pytest.CaptureFixture[str]) -> None:
    git("remote", "remove", "origin", cwd=clone)
    rename("other-name")
    assert not (clone / ".copier-answers.yml").exists()
    assert "template=URL" in capsys.readouterr().out
    commit(clone)
    for url in ("https://example.com/one.git", "https://example.com/two.git"):
        rename("other-name", template=url)
        commit(clone)
        answers = yaml.safe_load(read(clone, ".copier-answers.yml"))
        assert answers == {"_commit": "v0.1.0", "_src_path": url, "name": "other-name"}


def test_copier_renames_before_anything_is_installed(clone: Path) -> None:
    """It has no repository and no packages, and writes the file with the answers by itself."""
    shutil.rmtree(clone / ".git")
    task = yaml.safe_load(read(clone, "copier.yml"))["_tasks"][0]
    command = [sys.executable, "-I", "-S", "-c", RUN_ISOLATED, *task[2:-1], "other-name"]
    subprocess.run(command, check=True, capture_output=True)
    assert names_of(clone) == {"other-name"}
    assert not (clone / ".copier-answers.yml").exists()


# -I and -S hide the installed packages, and -I hides the current directory too.
RUN_ISOLATED = """
import runpy, sys
assert sys.argv[1] == "-m"
sys.path.insert(0, "")
sys.argv = sys.argv[2:]
runpy.run_module(sys.argv[0], run_name="__main__")
"""


@pytest.mark.parametrize(
    "name", ["", "Order", "order desk", "-order", "order--desk", "1order", "é", "a" * 41, "../x"]
)
def test_a_name_that_does_not_fit_everywhere_is_refused(clone: Path, name: str) -> None:
    with pytest.raises(CommandError, match="order-desk"):
        parse_name(name)


def test_the_name_of_a_locked_package_is_refused(clone: Path) -> None:
    with pytest.raises(CommandError, match="fastapi"):
        parse_name("fastapi")


@pytest.mark.parametrize(
    ("name", "title"),
    [
        ("invoicing", "Invoicing"),
        ("order-desk", "Order desk"),
        ("billing-api", "Billing API"),
        ("api-gateway", "API gateway"),
    ],
)
def test_the_title_is_the_name_for_people(name: str, title: str) -> None:
    assert title_of(name) == title


@pytest.mark.parametrize(
    ("url", "recorded"),
    [
        ("https://me:token@example.com/a.git", "https://example.com/a.git"),
        ("https://example.com:8443/a", "git+https://example.com:8443/a"),
        ("ssh://git@example.com/a", "git+ssh://git@example.com/a"),
        ("git@example.com:a", "git@example.com:a"),
        ("git+https://me:token@example.com/a", "git+https://example.com/a"),
        ("gh:example/a", "gh:example/a"),
    ],
)
def test_the_url_is_recorded_as_copier_recognises_it_and_without_a_password(
    url: str, recorded: str
) -> None:
    assert copier_source(url) == recorded
