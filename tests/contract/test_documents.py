"""Paths, targets and settings that the documents name exist, and all settings are documented."""

import re
import tomllib
from pathlib import Path
from textwrap import dedent

import pytest
import yaml

from app.settings import Settings
from dev.planted import KEPT, PLANTED, Planted

PROJECT = Path(__file__).parents[2]
PACKAGES = ("coherent_cache", "graceful_gunicorn")
DOCUMENTS = [
    *(
        "README.md",
        "CONTRIBUTING.md",
        "CHANGELOG.md",
        "SECURITY.md",
        *(f"{package}/README.md" for package in PACKAGES),
    ),
    *map(str, (PROJECT / "docs").rglob("*.md")),
]


def setting_names() -> dict[str, object]:
    """Return the environment variable and the default of every setting."""
    names: dict[str, object] = {}
    for name, field in Settings.model_fields.items():
        section = field.default
        if hasattr(type(section), "model_fields"):
            for key, part in type(section).model_fields.items():
                names[f"{name}_{part.alias or key}".upper()] = getattr(section, key)
        else:
            names[name.upper()] = section
    return names


def plain(value: object) -> str:
    """Write a default as a person would."""
    value = getattr(value, "get_secret_value", lambda: value)()
    if isinstance(value, str):
        return value.replace("postgresql+asyncpg:", "postgresql:")
    if value is None:
        return ""
    if isinstance(value, float):
        return f"{value:g}"
    return str(value).lower() if isinstance(value, bool) else str(value)


def test_the_example_names_every_setting_with_its_default() -> None:
    text = (PROJECT / ".env.example").read_text(encoding="utf-8")
    found = dict(re.findall(r"^#?([A-Z0-9_]+)=(.*)$", text, re.MULTILINE))
    assert found == {name: plain(value) for name, value in setting_names().items()}


@pytest.mark.parametrize("document", DOCUMENTS)
def test_a_feature_that_can_be_removed_is_named_where_its_removal_is_seen(document: str) -> None:
    """`make remove` deletes rows of tables, and the sections of a feature, and no other text."""
    path, heading = str((PROJECT / document).relative_to(PROJECT)), ""
    if path.startswith("docs/decisions/"):
        return  # history
    text = (PROJECT / document).read_text(encoding="utf-8")
    for line in re.sub(r"^ *```.*?^ *```$", "", text, flags=re.MULTILINE | re.DOTALL).splitlines():
        heading = line.lstrip("# ") if line.startswith("#") else heading
        for name in re.findall(r"`(?:app|tests)/features/(\w+)", line):
            is_in_own_section = PLANTED.get(name, Planted()).sections.get(path) == heading
            assert name in KEPT or line.startswith("|") or is_in_own_section, line
        for planted in PLANTED.values():
            assert line.startswith("|") or not any(one in line for one in planted.files), line


@pytest.mark.parametrize("document", DOCUMENTS)
def test_every_path_and_target_that_a_document_names_exists(document: str) -> None:
    text = (PROJECT / document).read_text(encoding="utf-8")
    targets = set(
        re.findall(r"^([a-z-]+):", (PROJECT / "Makefile").read_text(encoding="utf-8"), re.MULTILINE)
    )
    for target in re.findall(r"`make ([a-z-]+)", text):
        assert target in targets, target
    for path in re.findall(
        r"`((?:app|deploy|dev|docs|migrations|requirements|tests)/[\w./-]*)`", text
    ):
        assert (PROJECT / path).exists(), path
    for link in re.findall(r"\]\((?!http)([^)]+)\)", text):
        path, _, anchor = link.partition("#")
        target = (PROJECT / document).parent / path if path else PROJECT / document
        assert target.exists(), link
        assert not anchor or anchor in anchors(target), link


def anchors(document: Path) -> set[str]:
    """Return the anchors of the headings, as GitHub makes them."""
    headings = re.findall(r"^#+ (.+)$", document.read_text(encoding="utf-8"), re.MULTILINE)
    return {re.sub(r"[^\w\- ]", "", heading.lower()).replace(" ", "-") for heading in headings}


@pytest.mark.parametrize("document", DOCUMENTS)
def test_every_setting_that_a_document_names_exists(document: str) -> None:
    text = (PROJECT / document).read_text(encoding="utf-8")
    sections = "|".join(name.upper() for name in Settings.model_fields)
    for name in re.findall(rf"`((?:{sections})_[A-Z0-9_]+)", text):
        assert name in setting_names(), name


def test_code_that_the_readme_shows_is_that_of_the_service() -> None:
    text = (PROJECT / "README.md").read_text(encoding="utf-8")
    shown = re.findall(r"^# (app/\S+\.py)\n(.+?)(?=^# app/|^```)", text, re.MULTILINE | re.DOTALL)
    kept = [(PROJECT / path, code) for path, code in shown if (PROJECT / path).exists()]
    for path, code in kept:  # a feature may have been removed
        assert code.strip() in path.read_text(encoding="utf-8"), path


def test_the_example_of_the_cache_is_the_service_that_its_tests_run() -> None:
    text = (PROJECT / "coherent_cache" / "README.md").read_text(encoding="utf-8")
    example = (PROJECT / "tests" / "coherent_cache" / "standalone.py").read_text(encoding="utf-8")
    assert f"```python\n{example}```" in text


@pytest.mark.parametrize("package", PACKAGES)
def test_the_readme_of_a_package_names_all_of_its_files(package: str) -> None:
    text = (PROJECT / package / "README.md").read_text(encoding="utf-8")
    files = {file.name for file in (PROJECT / package).glob("*.py")} - {"__init__.py"}
    assert {name for name in files if f"`{name}`" not in text} == set()


@pytest.mark.parametrize("document", DOCUMENTS)
def test_examples_of_configuration_can_be_parsed(document: str) -> None:
    text = (PROJECT / document).read_text(encoding="utf-8")
    for language, block in re.findall(
        r"^ *```(yaml|toml)\n(.*?)^ *```$", text, re.MULTILINE | re.DOTALL
    ):
        example = dedent(block)
        assert yaml.safe_load(example) if language == "yaml" else tomllib.loads(example), block


def test_decision_records_are_short() -> None:
    for record in (PROJECT / "docs" / "decisions").glob("*.md"):
        assert len(record.read_text(encoding="utf-8").splitlines()) <= 40, record


def test_the_change_log_describes_the_version_of_the_project() -> None:
    project = tomllib.loads((PROJECT / "pyproject.toml").read_text(encoding="utf-8"))["project"]
    text = (PROJECT / "CHANGELOG.md").read_text(encoding="utf-8")
    first, *versions = re.findall(r"^## \[(.+)\](?: - \d{4}-\d{2}-\d{2})?$", text, re.MULTILINE)
    assert first == "Unreleased"
    assert project["version"] in versions, "Add a heading for the version to CHANGELOG.md."
