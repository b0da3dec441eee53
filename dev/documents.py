"""Edits of Markdown and of .env.example."""

import re
from collections.abc import Iterable


def without_rows(text: str, words: Iterable[str]) -> str:
    """Remove each row of a table that contains one of the words as a whole."""
    pattern = re.compile("|".join(rf"(?<![\w-]){re.escape(word)}(?![\w-])" for word in words))
    lines = text.splitlines(keepends=True)
    return "".join(line for line in lines if not (line[0] == "|" and pattern.search(line)))


def without_section(text: str, heading: str) -> str:
    """Remove a section, up to the next heading of its level, and the table rows that link to it."""
    found = re.search(rf"^(#+) {re.escape(heading)}\n", text, re.MULTILINE)
    if found is None:
        return text
    following = re.compile(rf"^#{{1,{len(found[1])}}} ", re.MULTILINE).search(text, found.end())
    rest = text[: found.start()] + (text[following.start() :] if following else "")
    return without_rows(rest.rstrip("\n") + "\n", [f"(#{anchor(heading)})"])


def anchor(heading: str) -> str:
    """Return the anchor of a heading, as GitHub makes it."""
    return re.sub(r"[^\w\- ]", "", heading.lower()).replace(" ", "-")


def without_settings(text: str, section: str) -> str:
    """Remove the settings of a section from .env.example, with the comments above them."""
    kept: list[str] = []
    for line in text.splitlines(keepends=True):
        if not re.match(rf"#?{section.upper()}_[A-Z0-9_]+=", line):
            kept.append(line)
            continue
        while kept and kept[-1].startswith("# "):
            kept.pop()
    return "".join(kept)
