"""The guide and the runbooks name only what exists, and each row of the guide has a chapter."""

import ast
import json
import re
import shlex
from collections.abc import Iterator
from functools import cache
from importlib.util import find_spec
from pathlib import Path

from dev.planted import KEPT
from tests.contract.test_documents import plain, setting_names

PROJECT = Path(__file__).parents[2]
GUIDE = PROJECT / "docs" / "guide"
CHAPTERS = sorted(GUIDE.glob("[0-9]*.md"))
PAGES = [GUIDE / "README.md", *CHAPTERS, PROJECT / "docs" / "operations.md"]
NUMBERS = range(1, 51)
HEADINGS = [
    "The mistake",
    "What it costs",
    "What the usual advice gets wrong",
    "What this service does",
    "See it yourself",
    "When not to",
]
CODE = ("app", "coherent_cache", "graceful_gunicorn", "dev", "deploy", "migrations", "tests")
FILES = re.compile(rf"(?:{'|'.join(CODE)}|docs|benchmarks)/[\w./-]+")
OTHER_FILES = re.compile(r"[\w.-]+\.(?:py|toml|yml|md|example)")
REMOVABLE = re.compile(
    rf"(?:app|tests)/features/(?!(?:{'|'.join(KEPT)})\b)\w+|tests/faults/|(?<!\.\./)benchmarks/"
)
MARK = re.compile(r"<!--figure [\w.-]+-->[^<\n]*<!--/figure-->")
FIGURE = re.compile(
    r"\d\s?(?:×(?! \d)|%|µs|ms|RPS|MB|MiB|requests/s|rows/s|times (?:faster|slower))"
)
WITHOUT_DOCUMENTATION = {"/livez", "/readyz", "/metrics"}
WITHOUT_ROUTE = {"/wp-login.php"}  # an example of what a scanner asks for
CALLED = {"posts"}  # features whose routes the commands call; users may have removed them
OUTSIDE = {"git", "kill", "psql", "docker", "kubectl", "curl"}  # programs whose arguments are free


def blocks(page: Path, language: str) -> list[str]:
    text = page.read_text(encoding="utf-8")
    return re.findall(rf"^```{language}\n(.*?)^```$", text, re.MULTILINE | re.DOTALL)


def prose(page: Path) -> str:
    """Return a page without its blocks of code."""
    text = page.read_text(encoding="utf-8")
    return re.sub(r"^```.*?^```$", "", text, flags=re.MULTILINE | re.DOTALL)


def commands(page: Path) -> Iterator[list[str]]:
    """Yield the words of each command that a page tells its readers to run."""
    for block in blocks(page, "sh"):
        for line in block.splitlines():
            if words := shlex.split(line, comments=True):
                yield words


def without_variables(words: list[str]) -> list[str]:
    """Return a command without the variables before it, which have to be settings."""
    if words[0].partition("=")[2].startswith("$("):
        return []  # a variable of the shell, set to the output of a command
    while words and re.match(r"[A-Z_]+=", words[0]):
        name = words.pop(0).partition("=")[0]
        assert not words or name in setting_names(), name
    return words


@cache
def source() -> str:
    """Return all code, and the files that configure it."""
    files = [
        path
        for folder in CODE
        for path in (PROJECT / folder).rglob("*")
        if path.is_file() and path.suffix in {".py", ".yml", ".yaml", ".cfg", ".json", ".sql"}
    ]
    files += [PROJECT / name for name in (".env.example", "Makefile", "pyproject.toml")]
    return "\n".join(path.read_text(encoding="utf-8") for path in files)


def test_every_row_of_the_guide_has_a_chapter() -> None:
    rows = re.findall(
        r"^\| (\d+) \| .+ \| \[.+\]\((.+\.md)\) \|$",
        (GUIDE / "README.md").read_text(encoding="utf-8"),
        re.MULTILINE,
    )
    assert sorted(int(number) for number, _ in rows) == [*NUMBERS]
    assert sorted(name for _, name in rows) == [chapter.name for chapter in CHAPTERS]
    for number, name in rows:
        assert name.startswith(f"{int(number):02}-"), name


def test_chapters_have_their_parts_and_are_short() -> None:
    for chapter in CHAPTERS:
        lines = chapter.read_text(encoding="utf-8").splitlines()
        assert lines[0].startswith(f"# {int(chapter.stem[:2])}. "), chapter
        assert re.findall(r"^## (.+)$", prose(chapter), re.MULTILINE) == HEADINGS, chapter
        assert blocks(chapter, "sh"), f"{chapter} has no command to run."
        assert 25 <= len(lines) <= 60, chapter


def test_every_file_that_a_page_names_exists() -> None:
    for page in PAGES:
        for span in re.findall(r"`([^`\n]+)`", prose(page)):
            if FILES.fullmatch(span):
                assert (PROJECT / span).exists(), f"{page.name}: {span}"
            elif OTHER_FILES.fullmatch(span) and not (PROJECT / span).exists():
                assert any(PROJECT.glob(f"*/**/{span}")), f"{page.name}: {span}"


def test_every_name_that_a_page_gives_is_in_the_code() -> None:
    for page in PAGES:
        text = prose(page)
        ours = text.partition("\n## What this service does\n")[2] or text
        known = source() + "".join(blocks(page, r"\w+"))
        for span in re.findall(r"`([^`\n]+)`", ours):
            if "/" not in span and not span.startswith(("make ", "python ")):
                for name in re.findall(r"[A-Za-z]\w*(?:_\w+|[a-z][A-Z]\w*)", span):
                    assert name in known, f"{page.name}: {name}"


def test_every_default_that_a_page_gives_is_that_of_the_setting() -> None:
    names = setting_names()
    for page in PAGES:
        for name, value in re.findall(r"`([A-Z_]+)` \(([\d.,]+)\)", prose(page)):
            default = plain(names[name])
            assert value.replace(",", "") == default, f"{page.name}: {name} is {default}"


def test_what_is_named_outside_of_tables_cannot_be_removed() -> None:
    """`make remove` deletes rows of tables that name a deleted file."""
    for page in PAGES:
        for line in page.read_text(encoding="utf-8").splitlines():
            assert line.startswith("|") or not REMOVABLE.search(line), f"{page.name}: {line}"


def test_every_figure_comes_from_the_benchmark() -> None:
    for page in PAGES:
        text = MARK.sub("", prose(page))
        assert "<!--" not in text, page
        assert not FIGURE.search(text), f"{page.name}: {FIGURE.search(text)}"


def test_every_command_can_be_run() -> None:
    targets = re.findall(
        r"^([a-z-]+):", (PROJECT / "Makefile").read_text(encoding="utf-8"), re.MULTILINE
    )
    for page in PAGES:
        for command in filter(None, map(without_variables, commands(page))):
            if command[0] == "make":
                assert command[1] in targets, f"{page.name}: {command}"
            elif command[0] in {".venv/bin/python", "python"}:
                assert command[1] == "-m", f"{page.name}: {command}"
                check_module(command[2], command[3:])
            else:
                assert command[0] in OUTSIDE, f"{page.name}: {command}"


def check_module(module: str, arguments: list[str]) -> None:
    if module != "pytest":
        assert find_spec(module), module
        return
    files = [argument for argument in arguments if argument.startswith("tests/")]
    names = [
        node.name
        for file in files
        for node in ast.walk(ast.parse((PROJECT / file).read_text(encoding="utf-8")))
        if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef)
        and node.name.startswith("test_")
    ]
    assert names, arguments
    if "-k" in arguments:
        for word in arguments[arguments.index("-k") + 1].split(" or "):
            assert any(word in name for name in names), arguments


def test_every_address_is_that_of_a_route() -> None:
    document = json.loads((PROJECT / "tests/contract/openapi.json").read_text(encoding="utf-8"))
    routes = [re.sub(r"\{\w+\}", "[^/]+", path) for path in document["paths"]]
    for page in PAGES:
        for path in re.findall(r"http://127\.0\.0\.1:8000(/[\w/.-]*)", "".join(blocks(page, "sh"))):
            feature = path.removeprefix("/v1/")
            is_removed = feature in CALLED and not (PROJECT / "app/features" / feature).exists()
            known = path in WITHOUT_DOCUMENTATION | WITHOUT_ROUTE or is_removed
            assert known or any(re.fullmatch(route, path) for route in routes), (
                f"{page.name}: {path}"
            )
