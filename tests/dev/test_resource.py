"""A new resource is a renamed copy of a feature, or nothing is changed."""

import ast
import os
import re
import subprocess
import sys
from pathlib import Path

import pytest

from dev import resource
from dev.resource import KINDS, copied, make_resource, read_source, with_layer, with_router
from dev.resource_name import named, require_free
from dev.source_edits import feature_layers
from dev.terminal import CommandError
from dev.words import Words
from tests.dev.repository import PROJECT, commit, copy_repository, git

# Names that no service has, so that these tests pass in every service.
NAMES = [
    Words("umbrella", "umbrellas"),
    Words("zebra_crossing", "zebra_crossings"),
    Words("butterfly", "butterflies"),
]
# A kind whose feature has been removed cannot be tested here.
PRESENT = [
    name
    for name, kind in KINDS.items()
    if (PROJECT / f"app/features/{kind.source.plural}").exists()
]
# What may stay of the words `post` and `draft`: HTTP methods, and a value of a status.
LEFT = r"""\.post\(|"POST[" ]|DRAFT|["'=]draft\b"""

REFUSED = {
    "Invoices": "`Invoices` cannot be the name of a resource",
    "purchase-orders": "`purchase-orders` cannot be the name",
    "1_things": "`1_things` cannot be the name",
    "_things": "`_things` cannot be the name",
    "a" * 30 + "s": "has more than 30 characters",
    "news": "`news` does not look like a plural",
    "me": "`me` does not look like a plural",
    "users": "`users` exists already",
    "refresh_tokens": "`refresh_tokens` is a table already",
    "problems": "`Problem` is a schema of the API already",
    "lists": "`list` is a word of Python",
    "classes": "`class` is a word of Python",
    "references": "`references` is a word of SQL",
}


@pytest.mark.parametrize(("plural", "sentence"), REFUSED.items(), ids=REFUSED)
def test_name_with_another_meaning_is_refused(plural: str, sentence: str) -> None:
    with pytest.raises(CommandError, match=re.escape(sentence)):
        require_free(named(plural, None), {})


def test_name_that_the_copied_feature_uses_is_refused() -> None:
    source = {"app/features/posts/service.py": "page = 1"}
    with pytest.raises(CommandError, match=r"`page` has another meaning in app/features/posts"):
        require_free(named("pages", None), source)


def test_the_singular_can_be_given() -> None:
    assert named("shelves", "shelf") == Words("shelf", "shelves")
    with pytest.raises(CommandError, match="is its own singular"):
        named("series", "series")


@pytest.mark.parametrize("kind_name", PRESENT)
@pytest.mark.parametrize("words", NAMES, ids=lambda words: words.plural)
def test_a_copy_has_nothing_of_its_source(kind_name: str, words: Words) -> None:
    kind = KINDS[kind_name]
    source = read_source(kind.source.plural)
    require_free(words, source)
    files = copied(source, kind, words)
    assert len(files) == len(source) - len(kind.skipped)
    for path, text in files.items():
        assert words.plural in path
        ast.parse(text, path)
        rest = re.sub(LEFT, "", text)
        word = kind.source.singular
        found = re.findall(rf"(?<![a-z]){word}s?(?![a-z])|(?i:\b{word}s?\b)", rest)
        found += re.findall(rf"{word.title()}s?(?![a-z])", rest)
        assert found == [], path
        for name in kind.forgotten:
            assert name not in text, path
    routes = files[f"app/features/{words.plural}/routes.py"]
    assert f'prefix="/v1/{words.plural.replace("_", "-")}"' in routes


def test_the_router_is_added_in_order() -> None:
    api = (PROJECT / "app/api.py").read_text(encoding="utf-8")
    for plural in ("aardvarks", "mongooses", "zebras"):
        api = with_router(api, plural=plural, source="users")
    imports = re.findall(r"^from app\.features\.(\w+)", api, re.MULTILINE)
    assert imports == sorted(imports)
    assert {"aardvarks", "mongooses", "zebras"} < set(imports)
    calls = re.findall(r"    app\.include_router\((\w+)\.router\)", api)
    place = calls.index("users")
    assert calls[place + 1 : place + 4] == ["zebras", "mongooses", "aardvarks"]
    ast.parse(api)


def test_the_layer_is_to_the_left_of_what_it_imports() -> None:
    text = (PROJECT / "pyproject.toml").read_text(encoding="utf-8")
    files = {
        "app/features/mongooses/routes.py": "from app.features.users.models import User",
        "app/features/mongooses/service.py": "from app.features.auth import service as auth",
        "tests/features/mongooses/test_it.py": "from app.features.board import routes",
    }
    layers = feature_layers(with_layer(text, plural="mongooses", files=files))
    assert layers[layers.index("mongooses") + 1] == "auth"
    assert [layer for layer in layers if layer != "mongooses"] == feature_layers(text)


def test_removed_source_is_taken_from_its_last_commit(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    paths = ["app/features/posts/__init__.py", "app/features/posts/routes.py"]
    (tmp_path / "app/features/posts").mkdir(parents=True)
    git("init", "-q", cwd=tmp_path)
    monkeypatch.setattr(resource, "ROOT", tmp_path)
    monkeypatch.chdir(tmp_path)
    with pytest.raises(CommandError, match="neither in this folder nor in the history"):
        read_source("posts")
    for number in range(2):
        for path in paths:
            text = f"number = {number}\n" if path.endswith("routes.py") else ""
            (tmp_path / path).write_text(text, encoding="utf-8")
        commit(tmp_path)
    git("rm", "-q", "-r", "app", cwd=tmp_path)
    commit(tmp_path)
    assert {path: text.strip() for path, text in read_source("posts").items()} == {
        paths[0]: "",
        paths[1]: "number = 1",
    }


def test_nothing_is_changed_in_a_dirty_tree(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    git("init", "-q", cwd=tmp_path)
    (tmp_path / "new").touch()
    monkeypatch.chdir(tmp_path)
    with pytest.raises(CommandError, match="There are changes that are not committed"):
        make_resource("mongooses", PRESENT[0] if PRESENT else "public", None)


@pytest.mark.skipif(not PRESENT, reason="there is no feature to copy")
def test_nothing_is_left_after_a_failure(tmp_path: Path) -> None:
    copy_repository(tmp_path)
    # The last step, the migration, fails because nothing listens on port 1.
    unreachable = {
        "DATABASE_URL": "postgresql://app@127.0.0.1:1/app",
        "VALKEY_URL": "redis://127.0.0.1:1",
        "PYTHONDONTWRITEBYTECODE": "",  # Git ignores the bytecode, and would leave it
    }
    command = [sys.executable, "-m", "dev", "resource", "mongooses", "--kind", PRESENT[0]]
    result = subprocess.run(
        command,
        cwd=tmp_path,
        env=os.environ | unreachable,
        capture_output=True,
        check=False,
        encoding="utf-8",
    )
    assert result.returncode == 1
    assert "Wrote tests/contract/openapi.json" in result.stdout
    assert "The files are as they were before." in result.stdout
    assert result.stderr.endswith("Correct what it says above, then try again.\n")
    assert git("status", "--porcelain", cwd=tmp_path) == ""
    assert not (tmp_path / "app/features/mongooses").exists()
    assert not (tmp_path / "tests/features/mongooses").exists()
