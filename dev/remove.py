"""`make remove name=comments`: removes a feature, with all that belongs to it.

planted.py says what the features of this repository have outside their own folders. The rest is
found. If something fails, the files are as they were before.
"""

import re
import shutil
from collections.abc import Callable, Iterable, Sequence
from contextlib import ExitStack, suppress
from dataclasses import dataclass, field
from functools import partial

from dev import documents
from dev.database import upgrade, write_migration
from dev.drivers import DRIVERS, drivers_without
from dev.features import Feature, features_in_order
from dev.imports import Files, imported_names, importers, module_of
from dev.planted import KEPT
from dev.servers import ROOT, Servers, open_servers
from dev.source_edits import feature_layers, forget, remove_lines, with_feature_layers
from dev.terminal import CommandError, say
from dev.tools import format_files, run_module
from dev.working_tree import git, require_clean_tree, undone_on_failure

# These may import a feature that is removed. The lines that do are removed with it.
ASSEMBLY = ("app/api.py", "app/settings.py")
# This is not changed, because it says how something was.
HISTORY = ("CHANGELOG.md", "benchmarks/", "docs/decisions/", "docs/faults.md", "migrations/")


def remove_feature(name: str) -> None:
    """Remove a feature from the code, the tests, the documents and the database."""
    require_clean_tree()
    feature, files = Feature(name), _read_files()
    if problem := problem_with_removing(feature, files, features_in_order()):
        raise CommandError(problem)
    removal = _Removal(feature, files)
    with ExitStack() as stack:
        has_tables = "__tablename__" in files.get(f"app/features/{name}/models.py", "")
        servers = stack.enter_context(open_servers(exclusive=True)) if has_tables else None
        stack.enter_context(undone_on_failure())
        removal.delete_files()
        removal.edit_python()
        removal.edit_other_files()
        changed = git("diff", "--name-only", "--diff-filter=M", "--", "*.py") or ""
        format_files(*changed.splitlines())
        run_module("dev", "openapi")
        if servers:
            _migrate(servers, name)
    removal.report()


def problem_with_removing(feature: Feature, files: Files, known: Sequence[str]) -> str | None:
    """Return a sentence if the feature cannot be removed, or not yet."""
    name = feature.name
    if name not in known:
        removable = ", ".join(one for one in reversed(known) if one not in KEPT)
        return f"There is no feature `{name}`. These can be removed: {removable or 'none'}"
    if name in KEPT:
        return f"`{name}` cannot be removed: {KEPT[name]}."
    users = [
        path
        for path in importers(files, *feature.modules)
        if not feature.owns(path)
        and path not in feature.planted.files
        and not path.startswith((*ASSEMBLY, *DRIVERS))
    ]
    children = [one for one in reversed(known) if any(map(Feature(one).owns, users))]
    if children:
        return (
            f"`{name}` cannot be removed yet, because other features build on it: "
            f"{', '.join(children)}.\nThese files import it:\n{_indented(users)}\n"
            "Change them, or remove these features first:\n"
            + _indented(f"make remove name={child}" for child in children)
        )
    if users:
        return (
            f"`{name}` cannot be removed yet, because these files import it:\n{_indented(users)}\n"
            "Change them first."
        )
    return None


@dataclass
class _Removal:
    """The removal of one feature. `files` are those from before, and `gone` those it deletes."""

    feature: Feature
    files: Files
    gone: set[str] = field(default_factory=set)

    def delete_files(self) -> None:
        planted = {path for path in self.feature.planted.files if (ROOT / path).exists()}
        self._delete({path for path in self.files if self.feature.owns(path)} | planted)
        for folder in self.feature.folders:  # deletes files that Git ignores, such as __pycache__
            shutil.rmtree(ROOT / folder, ignore_errors=True)

    def edit_python(self) -> None:
        """Remove all uses of the deleted code, and the fault cases and benchmarks that need it."""
        feature, files = self.feature, _read_files()
        for path in importers(files, *feature.modules):
            _edit(path, partial(forget, names=feature.modules))
        places = (*self._parents(), *DRIVERS)
        for path in files:
            if path.endswith(".py") and path.startswith(places):
                _edit(path, partial(forget, names=feature.planted.names))
        _edit("dev/planted.py", partial(forget, names={feature.name}))
        self._delete(drivers_without(feature, _read_files()))

    def edit_other_files(self) -> None:
        feature = self.feature
        layers = [
            " | ".join(kept)
            for layer in feature_layers(_read("pyproject.toml"))
            if (kept := [one for one in layer.split(" | ") if one.strip() != feature.name])
        ]
        _edit("pyproject.toml", partial(with_feature_layers, layers=layers))
        commands = [f"-m {module_of(path)}" for path in self.gone if path.endswith(".py")]
        _edit("Makefile", lambda text: remove_lines(text, *commands))
        if self.settings:
            _edit(".env.example", partial(documents.without_settings, section=self.settings))
        for path, heading in feature.planted.sections.items():
            _edit(path, partial(documents.without_section, heading=heading))
        for path in self.files:
            if path.endswith(".md") and not path.startswith(HISTORY):
                words = [*feature.folders, *self.gone]
                _edit(path, partial(documents.without_rows, words=words))

    @property
    def settings(self) -> str | None:
        """The name of the section that app/settings.py had from the feature."""
        text, module = self.files.get("app/settings.py", ""), f"app.features.{self.feature.name}"
        imported = re.search(rf"from {re.escape(module)}\.settings import (\w+)", text)
        found = imported and re.search(rf"^    (\w+): {imported[1]}\b", text, re.MULTILINE)
        return found[1] if found else None

    def report(self) -> None:
        """Say what was changed, and what is left to do."""
        folders = (*self.feature.folders, *DRIVERS)
        for folder in folders:
            if count := sum(path.startswith(folder) for path in self.gone):
                say(f"Deleted {folder.rstrip('/')}: {count} file{'s' * (count > 1)}")
        for path in sorted(path for path in self.gone if not path.startswith(folders)):
            say(f"Deleted {path}")
        for line in (git("diff", "--numstat", "--diff-filter=M") or "").splitlines():
            added, removed, path = line.split("\t")
            say(f"Changed {path}: lines removed: {removed}, added: {added}")
        for path in (git("ls-files", "--others", "--exclude-standard") or "").splitlines():
            say(f"Wrote {path}")
        if any(path.startswith(DRIVERS) for path in self.gone):
            say(
                f"\nThe deleted fault cases and benchmarks send requests to {self.feature.name}. "
                "docs/faults.md shows the old results until `make faults` writes it again."
            )
        if mentions := self._mentions():
            say("\nThese lines still mention what was removed. Change them by hand (file: lines):")
            say(_indented(mentions))
        say("\nNext, run: make check test")

    def _delete(self, paths: set[str]) -> None:
        for path in paths:
            (ROOT / path).unlink()
        self.gone |= paths

    def _parents(self) -> list[str]:
        """Return the folders of the features that this one imports."""
        own = [
            text
            for path, text in self.files.items()
            if self.feature.owns(path) and path.endswith(".py")
        ]
        imported = {name for text in own for name in imported_names(text)}
        parents = {name.split(".")[2] for name in imported if name.startswith("app.features.")}
        return [f"{folder}/" for parent in parents for folder in Feature(parent).folders]

    def _mentions(self) -> list[str]:
        """Return where the documents name the feature, and where any file names what is gone."""
        feature = self.feature
        words = [re.escape(word) for word in (*self.gone, *feature.folders, *feature.modules)]
        words += [rf"\b{self.settings.upper()}_[A-Z]"] if self.settings else []
        anywhere = "|".join([feature.path.pattern, *words])
        in_documents = rf"{anywhere}|(?i:\b{feature.name.removesuffix('s')}s?\b)"
        found = []
        for path, text in _read_files().items():
            pattern = re.compile(in_documents if path.endswith(".md") else anywhere)
            lines = [
                str(number)
                for number, line in enumerate(text.splitlines(), 1)
                if pattern.search(line)
            ]
            if lines and not path.startswith((*HISTORY, "dev/", "tests/dev/")):
                found.append(f"{path}: {', '.join(lines)}")
        return found


def _migrate(servers: Servers, name: str) -> None:
    """Write the migration that drops the tables. Only the embedded database loses them at once."""
    write_migration(servers, f"Remove {name.replace('_', ' ')}")
    if servers.embedded_database:
        upgrade(servers)
        say("Applied the migration to the embedded database.")
    else:
        say("The migration drops tables. Read it, then apply it with: make migrate")


def _indented(lines: Iterable[str]) -> str:
    return "\n".join(f"  {line}" for line in lines)


# The working tree


def _read_files() -> dict[str, str]:
    """Return the text of all files in Git that exist and are text."""
    files = {}
    for path in (git("ls-files") or "").splitlines():
        with suppress(FileNotFoundError, UnicodeDecodeError):
            files[path] = _read(path)
    return files


def _read(path: str) -> str:
    return (ROOT / path).read_text(encoding="utf-8")


def _edit(path: str, change: Callable[[str], str]) -> None:
    text = _read(path)
    if (changed := change(text)) != text:
        (ROOT / path).write_text(changed, encoding="utf-8")
