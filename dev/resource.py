"""`make resource name=invoices`: copies a feature under a new name, with all that belongs to it.

No second copy of the feature is kept as a template. KINDS says which feature is copied, and what
belongs to that feature alone. If something fails, the files are as they were before.
"""

import re
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path

from dev.database import upgrade, write_migration
from dev.imports import Files, imported_names
from dev.long_lines import wrap_prose
from dev.openapi import DOCUMENT
from dev.resource_name import named, require_free
from dev.servers import ROOT, open_servers
from dev.source_edits import feature_layers, forget, with_feature_layers
from dev.terminal import CommandError, say
from dev.tools import format_files, run_module
from dev.words import Words, hyphenated, rename_words, spoken
from dev.working_tree import git, require_clean_tree, undone_on_failure

FOLDERS = ("app/features", "tests/features")
PACKAGES = {"app", "coherent_cache", "tests"}


@dataclass(frozen=True)
class Kind:
    """A feature to copy, and what the copy does not have.

    - `skipped` files are not copied.
    - `forgotten` names are dropped with all that mentions them: see `source_edits.forget`.
    - `rewritten` pieces of text are replaced.
    """

    source: Words
    skipped: frozenset[str] = frozenset()
    forgotten: frozenset[str] = frozenset()
    rewritten: Mapping[str, str] = field(default_factory=dict)


KINDS = {
    "private": Kind(
        Words("draft", "drafts"),
        skipped=frozenset({"jobs.py", "test_jobs.py", "test_publish.py"}),
        forgotten=frozenset(
            {
                *("app.features.posts", "publish_draft", "post_id", "PUBLISHED"),
                *("_require_unpublished", "POST /v1/drafts/{draft_id}/publish", "/publish"),
                *("DUE", "DUE_PAGE", "DUE_LOCKED", "DUE_INDEX", "DUE_PAGE_SIZE", "_today"),
                *("due_drafts", "list_due_drafts", "lock_due_draft"),
                *("publish_due_draft", "_publish"),
                "are run by jobs",
            }
        ),
        rewritten={
            ": the private feature to copy": "",
            "Write a draft": "Create a draft",
            "publish_on": "due_on",
        },
    ),
    "public": Kind(
        Words("post", "posts"),
        forgotten=frozenset({"comment_count", "comments are deleted"}),
        rewritten={
            ": the feature to copy": "",
            " and its comments": "",
            " or its number of comments": "",
            "before a comment was added": "before an edit",
            "Publish a post": "Create a post",
            "publishes": "creates",
        },
    ),
}


def make_resource(plural: str, kind_name: str, singular: str | None) -> None:
    """Write the feature, its tests, its migration, and the lines outside that it needs."""
    kind, words = KINDS[kind_name], named(plural, singular)
    require_clean_tree()
    source = read_source(kind.source.plural)
    require_free(words, source)
    files = _without_missing_imports(copied(source, kind, words))
    with undone_on_failure(*(f"{folder}/{plural}" for folder in FOLDERS)):
        _write_files(files)
        for folder in FOLDERS:
            say(f"Wrote {folder}/{plural}, a copy of {kind.source.plural}")
        _edit("app/api.py", partial(with_router, plural=plural, source=kind.source.plural))
        format_files("app/api.py")
        say("Wrote two lines into app/api.py")
        _edit("pyproject.toml", partial(with_layer, plural=plural, files=files))
        say("Wrote a layer into pyproject.toml")
        run_module("dev", "openapi")
        say(f"Wrote {DOCUMENT}")
        with open_servers() as servers:
            write_migration(servers, f"Add {spoken(plural)}")
            upgrade(servers)
    say(_what_next(words))


def copied(source: Files, kind: Kind, words: Words) -> dict[str, str]:
    """Return the files of the new feature."""
    files = {}
    for path, text in source.items():
        if Path(path).name in kind.skipped:
            continue
        for old, new in kind.rewritten.items():
            text = text.replace(old, new)
        if path.endswith(".py"):
            text = rename_words(forget(text, kind.forgotten), kind.source, words)
        files[_renamed(path, kind.source, words)] = text
    return files


def _renamed(path: str, old: Words, new: Words) -> str:
    for before, after in ((old.plural, new.plural), (old.singular, new.singular)):
        path = re.sub(rf"(?<![a-z]){before}(?![a-z])", after, path)
    return path


def with_router(api: str, *, plural: str, source: str) -> str:
    """Add the router to app/api.py: the import in order, the call after that of the source."""
    new = f"from app.features.{plural} import routes as {plural}\n"
    lines = api.splitlines(keepends=True)
    imports = [line for line in lines if line.startswith("from app.features.")]
    following = [line for line in imports if line > new]
    place = lines.index(following[0]) if following else lines.index(imports[-1]) + 1
    lines.insert(place, new)
    calls = [line for line in lines if ".include_router(" in line]
    above = [line for line in calls if f"({source}.router)" in line]
    place = lines.index(above[0]) + 1 if above else lines.index(calls[0])
    lines.insert(place, f"    app.include_router({plural}.router)\n")
    return "".join(lines)


def with_layer(pyproject: str, *, plural: str, files: Files) -> str:
    """Add the feature to the layers, to the left of each feature that it imports."""
    names = [
        name
        for path, text in files.items()
        if path.startswith("app/") and path.endswith(".py")
        for name in imported_names(text)
    ]
    imported = {name.split(".")[2] for name in names if name.startswith("app.features.")} - {plural}
    layers = feature_layers(pyproject)
    places = [
        place
        for place, layer in enumerate(layers)
        if imported.intersection(name.strip() for name in layer.split("|"))
    ]
    layers.insert(min(places, default=len(layers)), plural)
    return with_feature_layers(pyproject, layers)


# The source


def read_source(name: str) -> dict[str, str]:
    """Return the files of the feature to copy. If it has been removed, they are taken from Git."""
    folders = [f"{folder}/{name}" for folder in FOLDERS]
    routes = f"{folders[0]}/routes.py"
    if (ROOT / routes).exists():
        paths = (git("ls-files", "--", *folders) or "").splitlines()
        return {path: (ROOT / path).read_text(encoding="utf-8") for path in paths}
    deletion = git("log", "-1", "--diff-filter=D", "--format=%H", "--", routes)
    if not deletion:
        raise CommandError(
            f"The feature `{name}`, which would be copied, is neither in this folder nor in the "
            "history that Git has. Use the other kind, or fetch the rest of the history with: "
            "git fetch --unshallow"
        )
    commit = f"{deletion}^"
    say(f"{name} has been removed. Its last version is taken from commit {commit[:10]}^")
    listed = (git("ls-tree", "-r", "--name-only", commit, "--", *folders) or "").splitlines()
    return {path: (git("show", f"{commit}:./{path}") or "") + "\n" for path in listed}


def _without_missing_imports(files: Files) -> Files:
    """Forget what the files import and does not exist any more, in an old version of a feature."""
    missing = {
        name
        for path, text in files.items()
        if path.endswith(".py")
        for name in imported_names(text)
        if name.partition(".")[0] in PACKAGES and not _exists(name, files)
    }
    if missing:
        say(f"Left out, because it does not exist any more: {', '.join(sorted(missing))}")
    return {
        path: forget(text, missing) if path.endswith(".py") else text
        for path, text in files.items()
    }


def _exists(name: str, files: Files) -> bool:
    """Whether a dotted name is a module, or occurs in its module."""
    path, (module, _, member) = name.replace(".", "/"), name.rpartition(".")
    if f"{path}.py" in files or (ROOT / f"{path}.py").exists() or (ROOT / path).is_dir():
        return True
    base = module.replace(".", "/")
    for file in (f"{base}.py", f"{base}/__init__.py"):
        text = files.get(file)
        if text is None and (ROOT / file).exists():
            text = (ROOT / file).read_text(encoding="utf-8")
        if text is not None:
            return re.search(rf"\b{re.escape(member)}\b", text) is not None
    return False


# The working tree


def _write_files(files: Files) -> None:
    """Write the files, sort their imports, and wrap what is too long for a line."""
    for path, text in files.items():
        (ROOT / path).parent.mkdir(parents=True, exist_ok=True)
        (ROOT / path).write_text(text, encoding="utf-8")
    python = [path for path in files if path.endswith(".py")]
    format_files(*python)
    for path in python:
        _edit(path, partial(wrap_prose, is_test=path.startswith("tests/")))
    run_module("ruff", "check", "--select=E501", "--add-noqa", "--quiet", *python)
    format_files(*python)


def _edit(path: str, change: Callable[[str], str]) -> None:
    text = (ROOT / path).read_text(encoding="utf-8")
    (ROOT / path).write_text(change(text), encoding="utf-8")


def _what_next(words: Words) -> str:
    plural = words.plural
    return f"""
The service now has /v1/{hyphenated(plural)}: start it with `make run`, and try it in /docs.
Commit this. Then change the columns and fields in app/features/{plural}, and run:
  make migration m="change {spoken(plural)}"
  make migrate
  make openapi
  make check test
CONTRIBUTING.md says more, under "Add a resource"."""
