"""Wraps comments and docstrings that are too long. The formatter does not."""

import ast
import inspect
import re
import textwrap
from collections.abc import Sequence

WIDTH = 100


def wrap_prose(source: str, *, is_test: bool) -> str:
    """Return the source, with each comment and docstring wrapped that has a line that is too long.

    Outside tests, the first sentence of a docstring has to stay in one line. A longer sentence
    stays as it is.
    """
    lines, result = source.split("\n"), list[str]()
    ends = {
        node.lineno: node.end_lineno or node.lineno
        for node in ast.walk(ast.parse(source))
        if isinstance(node, ast.Expr) and isinstance(node.value, ast.Constant)
    }
    start = 0
    while start < len(lines):
        end = ends.get(start + 1) or _end_of_comment(lines, start)
        block = lines[start:end]
        if max(map(len, block)) > WIDTH:
            block = _docstring(block, is_test) if start + 1 in ends else _comment(block)
        result += block
        start = end
    return "\n".join(result)


def _end_of_comment(lines: Sequence[str], start: int) -> int:
    end = start + 1
    if found := re.match(" *# ", lines[start]):
        while lines[end].startswith(found[0]):
            end += 1
    return end


def _comment(block: list[str]) -> list[str]:
    """Wrap a comment. Other code stays as it is."""
    if not (found := re.match(" *# ", block[0])):
        return block
    text = " ".join(line.removeprefix(found[0]) for line in block)
    lines = textwrap.wrap(text, WIDTH - len(found[0]), break_long_words=False)
    return [found[0] + line for line in lines]


def _docstring(block: list[str], is_test: bool) -> list[str]:
    if not block[-1].endswith('"""'):
        return block
    indent = block[0][: block[0].index('"')]
    first, *others = inspect.cleandoc("\n".join(block).strip()[3:-3]).split("\n\n")
    opening = f'{indent}"""'
    if len(opening + first) + 3 > WIDTH and "\n" not in first:
        first, *rest = re.split(r"(?<=[.!?]) ", first, maxsplit=1)
        others = rest + others
    written = [opening + first]
    if is_test and len(opening + first) > WIDTH - 3:
        first, *rest = textwrap.wrap(first, WIDTH - len(opening))
        written = [opening + first, *(indent + line for line in rest)]
    for paragraph in others:
        written += ["", *_paragraph(paragraph, indent)]
    return [f'{written[0]}"""'] if len(written) == 1 else [*written, f'{indent}"""']


def _paragraph(text: str, indent: str) -> list[str]:
    """Wrap a paragraph. The lines of a list stay as they are."""
    lines = text.splitlines()
    if not re.search(r"^\s*[-*] ", text, re.MULTILINE):
        lines = textwrap.wrap(" ".join(lines), WIDTH - len(indent), break_long_words=False)
    return [indent + line for line in lines]
