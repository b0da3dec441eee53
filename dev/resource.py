"""`make resource name=invoices`: copies a feature under a new name, with all that belongs to it.

No second copy of the feature is kept as a template. KINDS says which feature is copied, and what
belongs to that feature alone.
"""

import ast
import re
import subprocess
import sys
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path

from dev.database import upgrade, write_migration
from dev.long_lines import wrap_prose
from dev.resource_name import named, require_free
from dev.servers import ROOT, open_servers
from dev.source_edits import feature_layers, forget, with_feature_layers
from dev.terminal import CommandError, say
from dev.words import Words, rename_words, spoken
from dev.working_tree import git, require_clean_tree

FOLDERS = ("app/features", "tests/features")
MIGRATIONS = "migrations/versions"
OPENAPI = "tests/contract/openapi.json"
PACKAGES = {"app", "coherent_cache", "tests"}

Files = dict[str, str]  # the text of each file by its path in the repository


@dataclass(frozen=True)
class Kind:
    """A feature to copy, and what the copy does not have: files, names, and pieces of text."""

    source: Words
    skipped: frozenset[str] = frozenset()
    forgotten: frozenset[str] = frozenset()
    rewritten: Mapping[str, str] = field(default_factory=dict)


KINDS = {
    "private": Kind(
        Words("draft", "drafts"),
        skipped=frozenset({"test_publish.py"}),
        forgotten=frozenset(
            {
                *("app.features.posts", "publish_draft", "post_id", "PUBLISHED"),
                *("_require_unpublished", "POST /v1/drafts/{draft_id}/publish", "/publish"),
                "that was made from it",
            }
        ),
        rewritten={": the private feature to copy": "", "publish_on": "due_on"},
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
    source = _read_source(kind)
    require_free(words, source)
    files = _without_missing_imports(copied(source, kind, words))
    with _undone_on_failure() as tree:
        for path, text in files.items():
            tree.write(path, text)
        python = [path for path in files if path.endswith(".py")]
        _format(tree, python)
        for folder in FOLDERS:
            say(f"Wrote {folder}/{plural}, a copy of {kind.source.plural}.")
        tree.edit("app/api.py", lambda text: with_router(text, plural, kind.source.plural))
        tree.edit("pyproject.toml", lambda text: with_layer(text, plural, files))
        say("Added a line to app/api.py, and a layer to pyproject.toml.")
        tree.edit(OPENAPI, lambda text: text)
        _run("tests.contract.test_openapi")
        say(f"Wrote {OPENAPI}.")
        with open_servers() as servers, tree.noticing_new_files(MIGRATIONS):
            write_migration(servers, f"Add {spoken(plural)}")
            upgrade(servers)
    say(_what_next(words))


def copied(source: Files, kind: Kind, words: Words) -> Files:
    """Return the files of the new feature."""
    files = {}
    for path, text in source.items():
        if Path(path).name in kind.skipped:
            continue
        for old, new in kind.rewritten.items():
            text = text.replace(old, new)
        if path.endswith(".py"):
            text = rename_words(forget(text, kind.forgotten), kind.source, words)
        files[re.sub(rf"{kind.source.plural}|{kind.source.singular}", words.plural, path)] = text
    return files


def with_router(api: str, plural: str, source: str) -> str:
    """Add the router to app/api.py: the import in order, the call after that of the source."""
    new = f"from app.features.{plural} import routes as {plural}\n"
    lines = api.splitlines(keepends=True)
    imports = [line for line in lines if line.startswith("from app.features.")]
    following = [line for line in imports if line > new]
    place = lines.index(following[0]) if following else lines.index(imports[-1]) + 1
    lines.insert(place, new)
    calls = [line for line in lines if ".include_router(" in line]
    after = [line for line in calls if f"({source}.router)" in line]
    place = lines.index(after[0]) + 1 if after else lines.index(calls[0])
    lines.insert(place, f"    app.include_router({plural}.router)\n")
    return "".join(lines)


def with_layer(pyproject: str, plural: str, files: Files) -> str:
    """Add the feature to the layers: to the left of each feature that it imports."""
    text = "\n".join(text for path, text in files.items() if path.startswith("app/"))
    imported = set(re.findall(r"from app\.features\.(\w+)", text)) - {plural}
    layers = feature_layers(pyproject)
    places = [
        number
        for number, layer in enumerate(layers)
        if imported.intersection(re.findall(r"\w+", layer))
    ]
    layers.insert(min(places, default=len(layers)), plural)
    return with_feature_layers(pyproject, layers)


# The source


def _read_source(kind: Kind) -> Files:
    """Return the files of the feature to copy, from Git if it has been removed."""
    name = kind.source.plural
    folders = [f"{folder}/{name}" for folder in FOLDERS]
    routes = f"{folders[0]}/routes.py"
    if (ROOT / routes).exists():
        paths = (git("ls-files", "--", *folders) or "").splitlines()
        return {path: (ROOT / path).read_text(encoding="utf-8") for path in paths}
    deletion = git("log", "-1", "--diff-filter=D", "--format=%H", "--", routes)
    if not deletion:
        raise CommandError(
            f"The feature `{name}`, which would be copied, is neither in this folder nor in its "
            "Git history. Fetch the whole history (git fetch --unshallow), or use the other kind."
        )
    commit = f"{deletion}^"
    say(f"The feature {name} has been removed. Its last version is in {deletion[:10]}^.")
    listed = git("ls-tree", "-r", "--name-only", commit, "--", *folders) or ""
    return {path: git("show", f"{commit}:{path}") or "" for path in listed.splitlines()}


def _without_missing_imports(files: Files) -> Files:
    """Forget what the files import and does not exist any more, in an old version of a feature."""
    missing = {
        name
        for path, text in files.items()
        if path.endswith(".py")
        for name in _imports(text)
        if not _exists(name, files)
    }
    if not missing:
        return files
    say(f"Left out, because it does not exist any more: {', '.join(sorted(missing))}")
    return {
        path: forget(text, missing) if path.endswith(".py") else text
        for path, text in files.items()
    }


def _imports(text: str) -> Iterator[str]:
    """Yield what a module imports from this repository, as `package.module.name`."""
    for node in ast.walk(ast.parse(text)):
        module = getattr(node, "module", None) or ""
        if isinstance(node, ast.ImportFrom) and module.partition(".")[0] in PACKAGES:
            yield from (f"{module}.{alias.name}" for alias in node.names)


def _exists(name: str, files: Files) -> bool:
    module, _, member = name.rpartition(".")
    folder = name.replace(".", "/")
    if f"{folder}.py" in files or (ROOT / f"{folder}.py").exists() or (ROOT / folder).is_dir():
        return True
    base = module.replace(".", "/")
    for path in (f"{base}.py", f"{base}/__init__.py"):
        text = files.get(path)
        if text is None and (ROOT / path).exists():
            text = (ROOT / path).read_text(encoding="utf-8")
        if text is not None:
            return re.search(rf"\b{re.escape(member)}\b", text) is not None
    return False


# The working tree


@dataclass
class _Tree:
    """Files of the repository. What is written can be undone."""

    before: dict[Path, bytes | None] = field(default_factory=dict)

    def write(self, path: str, text: str) -> None:
        file = ROOT / path
        if file not in self.before:
            self.before[file] = file.read_bytes() if file.exists() else None
        file.parent.mkdir(parents=True, exist_ok=True)
        file.write_text(text, encoding="utf-8")

    def edit(self, path: str, change: Callable[[str], str]) -> None:
        self.write(path, change((ROOT / path).read_text(encoding="utf-8")))

    @contextmanager
    def noticing_new_files(self, folder: str) -> Iterator[None]:
        """Undo the files too that somebody else writes into the folder meanwhile."""
        known = set((ROOT / folder).glob("*.py"))
        try:
            yield
        finally:
            new = set((ROOT / folder).glob("*.py")) - known
            self.before |= dict.fromkeys(new)

    def undo(self) -> None:
        for file, content in self.before.items():
            if content is not None:
                file.write_bytes(content)
            else:
                file.unlink(missing_ok=True)
        for folder in {file.parent for file, content in self.before.items() if content is None}:
            for cache in folder.glob("__pycache__"):
                for file in cache.iterdir():
                    file.unlink()
                cache.rmdir()
            if not any(folder.iterdir()):
                folder.rmdir()


@contextmanager
def _undone_on_failure() -> Iterator[_Tree]:
    tree = _Tree()
    try:
        yield tree
    except BaseException:
        tree.undo()
        say("The files are as they were before.")
        raise


def _format(tree: _Tree, paths: list[str]) -> None:
    """Let ruff remove unused imports and sort the others, and wrap what is too long."""
    _run("ruff", "check", "--fix-only", "--quiet", *paths)
    _run("ruff", "format", "--quiet", *paths)
    for path in paths:
        tree.edit(path, partial(wrap_prose, is_test=path.startswith("tests/")))
    _run("ruff", "check", "--select=E501", "--add-noqa", "--quiet", *paths)


def _run(module: str, *arguments: str) -> None:
    result = subprocess.run(
        [sys.executable, "-m", module, *arguments],
        cwd=ROOT,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        encoding="utf-8",
        check=False,
    )
    if result.returncode:
        print(*result.stdout.splitlines()[-20:], sep="\n", file=sys.stderr)
        raise CommandError(f"{module} failed, as it says above.")


def _what_next(words: Words) -> str:
    plural, path = words.plural, words.plural.replace("_", "-")
    return f"""
The service now has /v1/{path}. `make run` serves it. Next:

1. Change the columns in app/features/{plural}/models.py and schemas.py, then run
   make migration m="change {spoken(plural)}"
2. Change the rules in app/features/{plural}/service.py, and the tests in tests/features/{plural}.
3. Run: make check test"""
