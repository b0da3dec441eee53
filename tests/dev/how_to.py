"""The pages of docs/how-to: what they tell their readers to write, and how to do it in a copy.

A block of code belongs into a file if its first line is a comment with the path of the file:

- `# app/features/posts/routes.py`: the whole file, if it is new. Otherwise the imports go to those
  of the file, a definition replaces the one of the same name, and the rest goes to the end.
- `# app/api.py, in include_routers`: the end of this function or class. Imports go to the top.
- `# app/features/drafts/routes.py, above read_draft`: above this function or class.
- `# tests/features/posts/contract.py, in the table of routes`: the end of the table. A row replaces
  the one of the same route.
- `# tests/features/posts/contract.py, in the lists`: the end of `lists`.
- `{# app/features/comments/mails/new_comment.txt #}`: a whole file, if it is a template.
- `# pyproject.toml, the features`: the list of the features in an import contract.
"""

import ast
import re
import textwrap
from dataclasses import dataclass
from pathlib import Path

from dev.source_edits import with_feature_layers
from tests.dev.repository import PROJECT

FOLDER = PROJECT / "docs" / "how-to"
BLOCK = re.compile(r"^( *)```(\w+)\n(.*?)^\1```$", re.MULTILINE | re.DOTALL)
PATH = r"[\w-]+(?:/[\w.-]+)+|[\w-]*(?:\.\w+)+"
FIRST_LINE = re.compile(rf"(?:#|--|{{#) ({PATH})(?:, (in |above )?([\w ]+))?(?: #}})?\n")
ROUTES, LISTS, FEATURES = "the table of routes", "the lists", "the features"

Edit = tuple[int, int, list[str]]  # the lines to replace, counted from 0, and the new ones


@dataclass(frozen=True)
class Block:
    """A block of code of a page. `path` is None if it belongs into no file."""

    language: str
    code: str
    path: str | None = None
    relation: str | None = None
    place: str | None = None

    def write_into(self, folder: Path) -> None:
        assert self.path is not None
        file = folder / self.path
        file.parent.mkdir(parents=True, exist_ok=True)
        source = file.read_text(encoding="utf-8") if file.exists() else ""
        file.write_text(self._added_to(source), encoding="utf-8")

    def _added_to(self, source: str) -> str:
        if self.place == FEATURES:
            return with_feature_layers(source, re.findall(r'"(\w+)"', self.code))
        if self.place == LISTS:
            return _with_lists(source, self.code)
        if self.place == ROUTES:
            return _with_rows(source, self.code)
        if self.language != "python" or not source:
            return source + self.code
        return _with_statements(source, self)


def pages() -> list[Path]:
    return sorted(page for page in FOLDER.glob("*.md") if page.name != "README.md")


def blocks(page: Path) -> list[Block]:
    found = []
    for _, language, text in BLOCK.findall(page.read_text(encoding="utf-8")):
        code = textwrap.dedent(text)
        first = FIRST_LINE.match(code)
        if first is None:
            found.append(Block(language, code))
        else:
            path, relation, place = first.groups()
            found.append(Block(language, code[first.end() :], path, relation, place))
    return found


def commands(page: Path) -> list[str]:
    """Return the lines that the page tells its reader to run in a shell."""
    shell = [block.code for block in blocks(page) if block.language == "sh" and not block.path]
    return [line for code in shell for line in code.replace("\\\n", "").splitlines() if line]


def _with_statements(source: str, block: Block) -> str:
    old, new = ast.parse(source).body, block.code.splitlines()
    lines, edits, start = source.splitlines(), list[Edit](), 0
    for node in ast.parse(block.code).body:
        text, start = _without_space(new[start : node.end_lineno]), node.end_lineno or 0
        if isinstance(node, (ast.Import, ast.ImportFrom)):
            place = _end_of_imports(old)
            edits.append((place, place, text))
        elif block.place:
            edits.append(_edit_at(old, block, text))
        else:
            edits.append(_edit_at_end(old, len(lines), node, text))
    in_order = sorted(range(len(edits)), key=lambda number: (edits[number][:2], number))
    for number in reversed(in_order):
        first, end, text = edits[number]
        lines[first:end] = text
    return "\n".join(lines) + "\n"


def _edit_at_end(old: list[ast.stmt], end: int, node: ast.stmt, text: list[str]) -> Edit:
    name = _name(node)
    same = [one for one in old if name is not None and _name(one) == name]
    if not same:
        return end, end, ["", "", *text]
    return _first_line(same[0]), same[0].end_lineno or 0, text


def _edit_at(old: list[ast.stmt], block: Block, text: list[str]) -> Edit:
    [target] = [node for node in old if _name(node) == block.place]
    if block.relation == "above ":
        line = _first_line(target)
        return line, line, [*text, "", ""]
    assert isinstance(target, (ast.FunctionDef, ast.AsyncFunctionDef, ast.ClassDef))
    line = target.end_lineno or 0
    if isinstance(target.body[-1], ast.Return):
        line = _first_line(target.body[-1])
    fields = [node for node in target.body if isinstance(node, ast.AnnAssign)]
    if fields and isinstance(ast.parse("\n".join(text)).body[0], ast.AnnAssign):
        line = fields[-1].end_lineno or 0
    return line, line, [textwrap.indent(one, 4 * " ") for one in text]


def _with_rows(source: str, code: str) -> str:
    """Put rows into the dictionary that is the first argument of `Contract(…)`."""
    table = _contract(source).args[0]
    rows = ast.parse(f"{{{code}}}", mode="eval").body
    assert isinstance(table, ast.Dict)
    assert isinstance(rows, ast.Dict)
    replaced = {ast.literal_eval(key) for key in rows.keys if key}
    lines = source.splitlines()
    end = (table.end_lineno or 0) - 1
    lines[end:end] = textwrap.indent(code, 8 * " ").splitlines()
    for key, row in reversed([*zip(table.keys, table.values, strict=True)]):
        if key is not None and ast.literal_eval(key) in replaced:
            del lines[key.lineno - 1 : row.end_lineno]
    return "\n".join(lines) + "\n"


def _with_lists(source: str, code: str) -> str:
    """Put plans into the argument `lists` of `Contract(…)`."""
    [lists] = [one.value for one in _contract(source).keywords if one.arg == "lists"]
    lines, end = source.splitlines(), (lists.end_lineno or 0) - 1
    lines[end:end] = textwrap.indent(code, 8 * " ").splitlines()
    return "\n".join(lines) + "\n"


def _contract(source: str) -> ast.Call:
    for node in ast.walk(ast.parse(source)):
        if isinstance(node, ast.Call) and getattr(node.func, "id", "") == "Contract":
            return node
    raise AssertionError("There is no `Contract(…)`.")


def _without_space(lines: list[str]) -> list[str]:
    """Return the lines from the first that is not empty."""
    return "\n".join(lines).lstrip("\n").split("\n")


def _end_of_imports(body: list[ast.stmt]) -> int:
    kinds = (ast.Import, ast.ImportFrom)
    docstring = body[:1] if body and isinstance(body[0], ast.Expr) else []
    above = [*docstring, *(node for node in body if isinstance(node, kinds))]
    return (above[-1].end_lineno or 0) if above else 0


def _name(node: ast.stmt) -> str | None:
    """Return the name that a statement defines."""
    if isinstance(node, ast.Assign) and isinstance(node.targets[0], ast.Name):
        return node.targets[0].id
    return getattr(node, "name", None)


def _first_line(node: ast.stmt) -> int:
    decorators: list[ast.expr] = getattr(node, "decorator_list", [])
    return min([node.lineno, *(one.lineno for one in decorators)]) - 1
