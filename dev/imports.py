"""Which files of this repository import a module."""

import ast
from collections.abc import Iterator, Mapping

Files = Mapping[str, str]  # the text of each file by its path in the repository


def imported_names(source: str) -> Iterator[str]:
    """Yield the modules that a file imports, and what it imports from them, as dotted names."""
    for node in ast.walk(ast.parse(source)):
        match node:
            case ast.Import(names=names):
                yield from (alias.name for alias in names)
            case ast.ImportFrom(module=str(module), level=0, names=names):
                yield from (f"{module}.{alias.name}" for alias in names)


def importers(files: Files, *modules: str) -> list[str]:
    """Return the Python files that import one of the modules, or something in it."""
    return [
        path
        for path, text in files.items()
        if path.endswith(".py")
        and any(module.rpartition(".")[2] in text for module in modules)
        and any(
            name == module or name.startswith(f"{module}.")
            for name in imported_names(text)
            for module in modules
        )
    ]


def module_of(path: str) -> str:
    """Return the dotted name of a Python file or a package."""
    return path.removesuffix(".py").removesuffix("/__init__").replace("/", ".")
