"""What the pages of docs/how-to, and docs/exports.md, tell their readers to do works.

Each page is followed in a copy of the repository, if it needs no package that the tests lack. Of
the other pages, everything that they name is checked.
"""

import ast
import re
import shlex
import sys
from collections.abc import Iterator
from importlib import import_module
from pathlib import Path

import pytest

from tests.dev.how_to import Block, blocks, commands, pages
from tests.dev.repository import PROJECT, Copy

OURS = ("app", "coherent_cache", "dev", "graceful_gunicorn", "tests")
SERVES = ("make run", ".venv/bin/python -m uvicorn", ".venv/bin/python -m app.serve")
# A page names the tests of the contract by a word, which takes too long here. These run instead,
# with the tests that the page names by a file.
CONTRACT = (
    "tests/contract/test_access.py::test_every_route_has_a_complete_row",
    "tests/contract/test_openapi.py::test_the_document_that_is_served_is_the_one_in_openapi_json",
    "tests/contract/test_plans.py::test_every_list_has_a_plan",
)
LINT_IMPORTS = "from importlinter.cli import lint_imports_command as lint; lint()"


def builds_on_what_is_here(page: Path) -> bool:
    """Whether the features that the page changes have not been removed."""
    new = {block.path for block in blocks(page)}
    text = page.read_text(encoding="utf-8")
    return all(
        (PROJECT / "app" / "features" / name).exists() or f"app/features/{name}/__init__.py" in new
        for name in re.findall(r"app[./]features[./](\w+)", text)
    )


PAGES = [
    page for page in (*pages(), PROJECT / "docs" / "exports.md") if builds_on_what_is_here(page)
]
FOLLOWED = [page for page in PAGES if any("pytest" in line for line in commands(page))]


def quick_commands(page: Path) -> list[str]:
    """Return the commands that the test of a page runs."""
    return [
        line
        for line in commands(page)
        if line.startswith(("make ", ".venv/bin/"))
        and not line.startswith(SERVES)
        and "tests/contract" not in line
    ]


@pytest.mark.parametrize("page", FOLLOWED, ids=lambda page: page.stem)
def test_following_the_page_gives_what_it_promises(page: Path, tmp_path: Path) -> None:
    copy = Copy(tmp_path / "copy")
    for block in blocks(page):
        if block.path is not None:
            block.write_into(copy.folder)
    for line in quick_commands(page):
        # A start of pytest takes longer than these tests.
        more = f" {shlex.join(CONTRACT)}" if "pytest" in line else ""
        copy.run("sh", "-c", line + more)
    paths = {block.path for block in blocks(page) if block.path is not None}
    code = sorted(path for path in paths if path.endswith(".py"))
    copy.run(sys.executable, "-m", "mypy", *code)
    copy.run(sys.executable, "-m", "ruff", "check", ".")
    copy.run(sys.executable, "-c", LINT_IMPORTS)
    if not any("pytest" in line for line in quick_commands(page)):
        copy.pytest(*CONTRACT)


def names_imported(block: Block) -> Iterator[tuple[str, str]]:
    """Yield the module and the name of each import from this repository."""
    for node in ast.walk(ast.parse(block.code)):
        if isinstance(node, ast.ImportFrom) and (node.module or "").split(".")[0] in OURS:
            yield from ((str(node.module), alias.name) for alias in node.names)


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.stem)
def test_what_the_code_of_the_page_imports_exists(page: Path) -> None:
    written = blocks(page)
    paths = {block.path for block in written}
    for block in written:
        if block.language != "python" or block.place == "the table of routes":
            continue
        for module, name in names_imported(block):
            file = module.replace(".", "/")
            if f"{file}/{name}.py" in paths:
                continue
            here = [one.code for one in written if one.path and one.path.startswith(file)]
            if any(re.search(rf"\b{name}\b", code) for code in here):
                continue  # the page itself writes it
            assert hasattr(import_module(module), name) or import_module(f"{module}.{name}")


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.stem)
def test_what_the_commands_of_the_page_name_exists(page: Path) -> None:
    makefile = (PROJECT / "Makefile").read_text(encoding="utf-8")
    written = {block.path for block in blocks(page)}
    for line in commands(page):
        if found := re.match(r"(?:[A-Z_]+=\S+ )*make ([a-z-]+)", line):
            assert f"\n{found[1]}: environment" in makefile, line
        for path in re.findall(r"(?<![\w/])(?:app|deploy|dev|tests)/[\w./-]+", line):
            assert (PROJECT / path).exists() or path in written, line
        for module in re.findall(r"python -m ((?:app|dev|tests)[\w.]*)", line):
            assert (PROJECT / f"{module.replace('.', '/')}.py").exists(), line


@pytest.mark.parametrize("page", pages(), ids=lambda page: page.stem)
def test_the_index_names_the_page(page: Path) -> None:
    index = (page.parent / "README.md").read_text(encoding="utf-8")
    assert f"]({page.name})" in index, f"Add a row for {page.name} to docs/how-to/README.md."
