"""Checks the calls of `enqueue` when the process starts, because the name of a job is only text.

A typing error would otherwise be found by the first client whose request enqueues that job.
"""

import ast
from collections.abc import Callable, Iterator
from pathlib import Path
from types import ModuleType

from app.infra.jobs.arguments import OPTIONS, Arguments, InvalidJob


def check_calls(features: ModuleType, find_arguments: Callable[[str], Arguments]) -> None:
    """Raise `InvalidJob` if a call names an unknown job, or if its arguments do not fit.

    A name or arguments that are not written in the call itself are checked when it runs.
    """
    for path in sorted(Path(features.__path__[0]).rglob("*.py")):
        source = path.read_text(encoding="utf-8")
        if "enqueue" not in source:
            continue
        for line, name, arguments in _calls(source):
            try:
                _check_names(name, arguments, find_arguments(name))
            except InvalidJob as error:
                raise InvalidJob(f"{path}, line {line}: {error}") from None


def _calls(source: str) -> Iterator[tuple[int, str, list[str | None]]]:
    """Yield the line, the job and the arguments of each call. `**more` is the argument None."""
    for node in ast.walk(ast.parse(source)):
        match node:
            case ast.Call(
                func=ast.Name(id="enqueue") | ast.Attribute(attr="enqueue"),
                args=[_, ast.Constant(value=str(name)), *_],
                keywords=keywords,
            ):
                yield node.lineno, name, [keyword.arg for keyword in keywords]
            case ast.Call(
                func=ast.Name(id="enqueue_missing") | ast.Attribute(attr="enqueue_missing"),
                args=[_, ast.Constant(value=str(name)), ast.Constant(value=str(argument)), _],
            ):
                yield node.lineno, name, [argument]


def _check_names(job: str, arguments: list[str | None], known: Arguments) -> None:
    given = {name for name in arguments if name is not None} - set(OPTIONS)
    if unknown := sorted(given - known.names):
        raise InvalidJob(f"The job {job} has no argument {', '.join(unknown)}.")
    if None not in arguments and (missing := sorted(known.required - given)):
        raise InvalidJob(f"The job {job} also needs the argument {', '.join(missing)}.")
