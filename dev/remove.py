"""`make remove name=comments`: removes a feature, with all that belongs to it.

planted.py says what the features of this repository have outside their own folders. The rest is
found. If something fails, the files are as they were before.
"""

import re
import shutil
from collections.abc import Callable
from contextlib import suppress
from dataclasses import dataclass
from functools import partial
from pathlib import Path

from dev import documents
from dev.database import upgrade, write_migration
from dev.features import features_in_order
from dev.imports import Files, imported_names, importers, module_of
from dev.planted import KEPT, PLANTED, Planted
from dev.servers import ROOT, open_servers
from dev.source_edits import feature_layers, forget, remove_lines, with_feature_layers
from dev.terminal import CommandError, say
from dev.tools import format_files, run_module
from dev.working_tree import git, require_clean_tree, undone_on_failure

# Both send requests to features.
DRIVERS = ("tests/faults/", "benchmarks/")
# These may import a feature that is removed. The lines that do are removed with it.
ASSEMBLY = {"app/api.py", "app/settings.py"}
# What is not changed: it says how something was.
HISTORY = ("benchmarks/", "docs/decisions/", "docs/faults.md", "migrations/", "CHANGELOG.md")


@dataclass(frozen=True)
class Feature:
    """A feature, and where its own files are."""

    name: str

    @property
    def folders(self) -> tuple[str, str]:
        return f"app/features/{self.name}", f"tests/features/{self.name}"

    @property
    def demo(self) -> tuple[str, str]:
        return f"dev/demo/{self.name}.py", f"dev/demo/{self.name}.toml"

    @property
    def modules(self) -> tuple[str, ...]:
        return *map(module_of, self.folders), module_of(self.demo[0])

    @property
    def path(self) -> re.Pattern[str]:
        """The path of its routes."""
        return re.compile(rf"/v1/{self.name.replace('_', '-')}\b")

    @property
    def planted(self) -> Planted:
        return PLANTED.get(self.name, Planted())

    def owns(self, path: str) -> bool:
        return path.startswith(tuple(f"{folder}/" for folder in self.folders)) or path in self.demo


def remove_feature(name: str) -> None:
    """Remove the feature from the code, the tests, the documents and the database."""
    require_clean_tree()
    files = _read_files()
    feature = Feature(name)
    _require_removable(feature, files)
    has_tables = f"app/features/{name}/models.py" in files
    settings = _settings_section(feature, files.get("app/settings.py", ""))
    with undone_on_failure():
        gone = _delete(feature, files)
        _edit_python(feature, gone)
        _edit_other_files(feature, gone, settings)
        format_files(*_changed_python())
        run_module("tests.contract.test_openapi")
        if has_tables:
            _migrate(name)
    _report(feature, gone, settings, has_tables=has_tables)


def _read_files() -> dict[str, str]:
    """Return the text of all files in Git that exist and are text."""
    files = {}
    for path in (git("ls-files") or "").splitlines():
        with suppress(FileNotFoundError, UnicodeDecodeError):
            files[path] = _read(path)
    return files


# What cannot be removed


def _require_removable(feature: Feature, files: Files) -> None:
    name, known = feature.name, features_in_order(ROOT)
    if name not in known:
        removable = ", ".join(one for one in reversed(known) if one not in KEPT)
        raise CommandError(f"There is no feature `{name}`. These can be removed: {removable}")
    if name in KEPT:
        raise CommandError(f"`{name}` cannot be removed: {KEPT[name]}.")
    found = [
        path
        for path in importers(files, *feature.modules)
        if not (feature.owns(path) or path in ASSEMBLY or path.startswith(DRIVERS))
    ]
    children = [one for one in reversed(known) if any(f"features/{one}/" in path for path in found)]
    if children:
        commands = "\n".join(f"  make remove name={child}" for child in children)
        raise CommandError(
            f"`{name}` cannot be removed yet, because these features build on it: "
            f"{', '.join(children)}. Remove these first, or the imports in\n"
            f"{_indented(found)}\nTo remove these features:\n{commands}"
        )
    if found:
        raise CommandError(
            f"`{name}` cannot be removed yet, because these files import it:\n{_indented(found)}\n"
            "Change them first."
        )


def _settings_section(feature: Feature, settings: str) -> str | None:
    """Return the name of the section that app/settings.py takes from the feature."""
    imported = re.search(rf"from app\.features\.{feature.name}\.settings import (\w+)", settings)
    section = imported and re.search(rf"^    (\w+): {imported[1]}\b", settings, re.MULTILINE)
    return section[1] if section else None


# Files


def _delete(feature: Feature, files: Files) -> set[str]:
    """Delete all files that belong to the feature, and return their paths."""
    gone = {path for path in files if feature.owns(path) or path in feature.planted.files}
    gone |= {path for path in feature.planted.files if (ROOT / path).exists()}
    for path in gone:
        (ROOT / path).unlink()
    for folder in feature.folders:
        shutil.rmtree(ROOT / folder, ignore_errors=True)  # what Git ignores, such as __pycache__
    return gone


def _edit_python(feature: Feature, gone: set[str]) -> None:
    """Forget the feature in all Python files, then delete the drivers that need its routes."""
    near = (*_parents(feature), *DRIVERS)
    for path, text in _read_files().items():
        if path.endswith(".py"):
            names = set(feature.modules)
            names |= feature.planted.names if path.startswith(near) else set()
            names |= {feature.name} if path == "dev/planted.py" else set()
            _write(path, forget(text, names))
    for path in _drivers_without(feature, _read_files()):
        (ROOT / path).unlink()
        gone.add(path)


def _parents(feature: Feature) -> list[str]:
    """Return the folders of the features that this one imports. It is deleted already."""
    text = git("grep", "-h", "-E", r"^from app\.features", "HEAD", "--", *feature.folders) or ""
    found = {name.split(".")[2] for name in imported_names(text)} - {feature.name}
    return [f"{folder}/{name}/" for folder in ("app/features", "tests/features") for name in found]


def _drivers_without(feature: Feature, files: Files) -> set[str]:
    """Return the files of the fault programme and the benchmarks that cannot do without it."""
    drivers = {path: text for path, text in files.items() if path.startswith(DRIVERS)}
    gone = {path for path, text in drivers.items() if feature.path.search(text)}
    while True:
        kept = {path: text for path, text in drivers.items() if path not in gone}
        broken = set(importers(kept, *map(module_of, gone))) if gone else set()
        others = {path: text for path, text in files.items() if path not in gone}
        unused = {path for path in kept if _was_used(path, drivers, gone, others)}
        if not broken | unused:
            return gone
        gone |= broken | unused


def _was_used(path: str, drivers: Files, gone: set[str], kept: Files) -> bool:
    """Whether only files that are gone use this helper."""
    if Path(path).name.startswith(("test_", "__init__", "conftest")):
        return False
    names = (module_of(path), path, f'"{Path(path).name}"')
    is_used = any(name in text for other, text in kept.items() if other != path for name in names)
    return not is_used and any(name in drivers[other] for other in gone for name in names)


def _edit_other_files(feature: Feature, gone: set[str], settings: str | None) -> None:
    layers = [
        kept
        for layer in feature_layers(_read("pyproject.toml"))
        if (kept := " | ".join(one for one in layer.split(" | ") if one.strip() != feature.name))
    ]
    _edit("pyproject.toml", lambda text: with_feature_layers(text, layers))
    modules = [f"-m {module_of(path)}" for path in gone if path.endswith(".py")]
    _edit("Makefile", lambda text: remove_lines(text, *modules))
    if settings:
        _edit(".env.example", lambda text: documents.without_settings(text, settings))
    for path, heading in feature.planted.sections.items():
        _edit(path, partial(documents.without_section, heading=heading))
    words = [*(f"{folder}/" for folder in feature.folders), *gone]
    for path in _documents():
        _edit(path, lambda text: documents.without_rows(text, *words))


def _documents() -> list[str]:
    paths = (git("ls-files", "*.md") or "").splitlines()
    return [path for path in paths if not path.startswith(HISTORY)]


# The database


def _migrate(name: str) -> None:
    with open_servers() as servers:
        write_migration(servers, f"Remove {name.replace('_', ' ')}")
        if servers.embedded_database:
            upgrade(servers)


# The working tree


def _read(path: str) -> str:
    return (ROOT / path).read_text(encoding="utf-8")


def _write(path: str, text: str) -> None:
    if text != _read(path):
        (ROOT / path).write_text(text, encoding="utf-8")


def _edit(path: str, change: Callable[[str], str]) -> None:
    if (ROOT / path).exists():
        _write(path, change(_read(path)))


def _changed_python() -> list[str]:
    return (git("diff", "--name-only", "--diff-filter=M", "--", "*.py") or "").splitlines()


# What was done


def _report(feature: Feature, gone: set[str], settings: str | None, *, has_tables: bool) -> None:
    folders = (*feature.folders, *DRIVERS)
    counts = {folder: sum(path.startswith(folder) for path in gone) for folder in folders}
    for folder, count in counts.items():
        if count:
            say(f"Deleted {count} files in {folder}")
    for path in sorted(path for path in gone if not path.startswith(folders)):
        say(f"Deleted {path}")
    for line in (git("diff", "--numstat", "--diff-filter=M") or "").splitlines():
        added, removed, path = line.split("\t")
        say(f"Changed {path}: {removed} lines removed, {added} added")
    for path in (git("ls-files", "--others", "--exclude-standard") or "").splitlines():
        say(f"Wrote {path}")
    if any(counts[folder] for folder in DRIVERS):
        say(
            f"\nWhat was deleted in {' and '.join(DRIVERS)} sends requests to routes of "
            f"{feature.name}. docs/faults.md shows its results until `make faults` runs."
        )
    if has_tables:
        say("The migration drops the tables. `make migrate` applies it to other databases.")
    mentions = _mentions(feature, gone, settings)
    if mentions:
        say("\nThese lines still mention what was removed. Change them by hand (file: lines):")
        say(mentions)
    say("\nNext: make check test")


def _mentions(feature: Feature, gone: set[str], settings: str | None) -> str:
    """Return the lines that name the feature in the documents, or its files anywhere."""
    noun = re.compile(rf"\b{feature.name.removesuffix('s')}s?\b", re.IGNORECASE)
    words = [re.escape(word) for word in (*gone, *feature.folders, *feature.modules)]
    words += [rf"\b{settings.upper()}_[A-Z]"] if settings else []
    anywhere = re.compile("|".join([feature.path.pattern, *words]))
    found: dict[str, list[str]] = {}
    for path, text in _read_files().items():
        for number, line in enumerate(text.splitlines(), 1):
            is_prose = path.endswith(".md") and noun.search(line)
            if not path.startswith(HISTORY) and (is_prose or anywhere.search(line)):
                found.setdefault(path, []).append(str(number))
    return _indented([f"{path}: {', '.join(numbers)}" for path, numbers in found.items()])


def _indented(lines: list[str]) -> str:
    return "\n".join(f"  {line}" for line in lines)
