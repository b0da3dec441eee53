"""Code that reads or writes text names the encoding: with LC_ALL=C the default is ASCII.

Ruff's rule for this (PLW1514) does not see that `Path(…).parent.read_text()` is a file.
"""

import ast
from pathlib import Path

import pytest

PROJECT = Path(__file__).parents[2]
FOLDERS = ("app", "benchmarks", "dev", "migrations", "tests")


def sources() -> list[Path]:
    """Return every file of Python in the project."""
    files = [file for folder in FOLDERS for file in (PROJECT / folder).rglob("*.py")]
    return [PROJECT / "gunicorn_config.py", *files]


def lacks_encoding(call: ast.Call) -> bool:
    """Tell whether a call handles text in the locale's encoding."""
    given = {keyword.arg: keyword.value for keyword in call.keywords}
    if "encoding" in given or None in given:
        return False
    match call.func:
        case ast.Attribute(value=ast.Name(id="os"), attr="open"):
            return False  # a descriptor
        case ast.Attribute(value=ast.Name(id="os"), attr="fdopen") | ast.Name(id="open"):
            return is_text(given.get("mode") or next(iter(call.args[1:]), None))
        case ast.Attribute(attr="open"):
            return is_text(given.get("mode") or next(iter(call.args), None))
        case ast.Attribute(attr="read_text"):
            return not call.args
        case ast.Attribute(attr="write_text"):
            return not call.args[1:]
    switches = (given.get(name) for name in ("text", "universal_newlines"))
    return any(isinstance(switch, ast.Constant) and switch.value is True for switch in switches)


def is_text(mode: ast.expr | None) -> bool:
    """Tell the mode of a file; the default is text."""
    return mode is None or (isinstance(mode, ast.Constant) and "b" not in str(mode.value))


@pytest.mark.parametrize("file", sources(), ids=lambda file: str(file.relative_to(PROJECT)))
def test_text_has_an_encoding(file: Path) -> None:
    tree = ast.parse(file.read_text(encoding="utf-8"))
    calls = [node for node in ast.walk(tree) if isinstance(node, ast.Call)]
    assert [ast.unparse(call) for call in calls if lacks_encoding(call)] == []


@pytest.mark.parametrize(
    ("code", "lacks"),
    [
        ("path.read_text()", True),
        ("path.with_name('x').open()", True),
        ("open('x', 'w')", True),
        ("os.fdopen(1, 'r+')", True),
        ("subprocess.run(command, text=True)", True),
        ("path.open('rb')", False),
        ("path.read_text('utf-8')", False),
        ("path.write_text('x', 'utf-8')", False),
        ("path.write_text('x')", True),
        ("os.open('x', os.O_RDONLY)", False),
        ("path.write_text('x', encoding='utf-8')", False),
        ("urlopen('x')", False),
        ("example(text='x')", False),
    ],
)
def test_check_recognises_text_files(code: str, lacks: bool) -> None:
    call = ast.parse(code, mode="eval").body
    assert isinstance(call, ast.Call)
    assert lacks_encoding(call) is lacks
