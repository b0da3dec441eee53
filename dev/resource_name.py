"""Which names a new resource may have."""

import builtins
import io
import json
import keyword
import re
import tokenize
from collections.abc import Iterator, Mapping

from sqlalchemy.dialects.postgresql.base import RESERVED_WORDS

from dev.servers import ROOT
from dev.terminal import CommandError
from dev.words import Words, camel, hyphenated, singular_of

LONGEST_NAME = 30  # the longest name of an index adds 30 characters, and PostgreSQL allows 63


def named(plural: str, singular: str | None) -> Words:
    """Return the name in both numbers. Refuse what cannot be the name of a resource."""
    example = "Use lower-case words in the plural, for example: make resource name=purchase_orders"
    for word in (plural, singular or "item"):
        if not re.fullmatch(r"[a-z][a-z0-9]*(_[a-z][a-z0-9]*)*", word):
            raise CommandError(f"`{word}` cannot be the name of a resource. {example}")
        if len(word) > LONGEST_NAME:
            raise CommandError(f"`{word}` has more than {LONGEST_NAME} characters. Shorten it.")
    derived = singular or singular_of(plural)
    if derived is None:
        raise CommandError(
            f"`{plural}` does not look like a plural. {example}\nIf it is one, give both forms: "
            f"make resource name={plural} singular=…"
        )
    if derived == plural:
        raise CommandError(
            f"`{plural}` is its own singular, so the code could not tell one from many. Choose two "
            "forms, for example: make resource name=shelves singular=shelf"
        )
    return Words(derived, plural)


def require_free(words: Words, source: Mapping[str, str]) -> None:
    """Refuse a name that means something already in the files to copy, or in the service."""
    path = f"/v1/{hyphenated(words.plural)}"
    new = (words.plural, words.singular, camel(words.singular), camel(words.plural), path)
    for name, meaning in _taken(source):
        if name in new:
            raise CommandError(f"`{name}` {meaning}. Choose another name.")
    if words.plural in RESERVED_WORDS:
        raise CommandError(f"`{words.plural}` is a word of SQL. Choose another name.")


def _taken(source: Mapping[str, str]) -> Iterator[tuple[str, str]]:
    """Yield each name that cannot be used, and what it is."""
    for word in (*keyword.kwlist, *dir(builtins)):
        yield word, "is a word of Python"
    for folder in ("app/features", "tests/features"):
        for feature in (ROOT / folder).iterdir():
            yield feature.name, f"exists already: {folder}/{feature.name}"
    for package in ("app", "coherent_cache"):
        for file in (ROOT / package).rglob("*.py"):
            text = file.read_text(encoding="utf-8")
            for name in re.findall(r'(?:__tablename__ = |\bTable\(\s*)"(\w+)"', text):
                yield name, f"is a table already, in {file.relative_to(ROOT)}"
    document = json.loads((ROOT / "tests/contract/openapi.json").read_text(encoding="utf-8"))
    for name, schema in document["components"]["schemas"].items():
        yield from ((taken, "is a schema of the API already") for taken in (name, schema["title"]))
    for route in document["paths"]:
        yield "/".join(route.split("/")[:3]), "is a path of the API already"
    yield from _identifiers(source)


def _identifiers(source: Mapping[str, str]) -> Iterator[tuple[str, str]]:
    api = (ROOT / "app/api.py").read_text(encoding="utf-8")
    for path, text in {"app/api.py": api, **source}.items():
        if path.endswith(".py"):
            for token in tokenize.generate_tokens(io.StringIO(text).readline):
                yield token.string, f"has another meaning in {path}, which the copy uses"
