"""Edits of Markdown and of .env.example."""

import re

# A path of the repository, wherever it is in a text.
PATH = r"(?<![\w/.-])(?:app|benchmarks|dev|docs|migrations|tests)/[\w./-]*\w"


def without_rows(text: str, *words: str) -> str:
    """Remove each row of a table that contains one of the words."""
    lines = text.splitlines(keepends=True)
    return "".join(
        line for line in lines if not (line.startswith("|") and any(word in line for word in words))
    )


def without_section(text: str, heading: str) -> str:
    """Remove a section, up to the next heading of its level, and table rows that link to it."""
    found = re.search(rf"^(#+) {re.escape(heading)}\n", text, re.MULTILINE)
    if found is None:
        return text
    following = re.compile(rf"^#{{1,{len(found[1])}}} ", re.MULTILINE).search(text, found.end())
    end = following.start() if following else len(text)
    anchor = re.sub(r"[^\w\- ]", "", heading.lower()).replace(" ", "-")
    rest = text[: found.start()].rstrip("\n") + "\n\n" + text[end:]
    return without_rows(rest.rstrip("\n") + "\n", f"(#{anchor})")


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
