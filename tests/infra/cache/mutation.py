"""Takes one safeguard out of the protocol, by its text."""

import inspect
import textwrap
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import pytest


@dataclass(frozen=True)
class Mutation:
    """`old` becomes `new` in a script, or in the source of a method."""

    owner: Any
    name: str
    old: str
    new: str

    def apply(self, patch: pytest.MonkeyPatch) -> None:
        """Make the change. It fails if the text is not there once: the code has moved on."""
        present = getattr(self.owner, self.name)
        source = present if isinstance(present, str) else _source(present)
        assert source.count(self.old) == 1, f"{self.name} has no {self.old!r}"
        changed = source.replace(self.old, self.new)
        if not isinstance(present, str):
            patch.setattr(self.owner, self.name, _compiled(changed, present))
        else:
            patch.setattr(self.owner, self.name, changed)


def _source(method: Callable[..., Any]) -> str:
    return textwrap.dedent(inspect.getsource(method))


def _compiled(source: str, method: Callable[..., Any]) -> Callable[..., Any]:
    names: dict[str, Any] = {}
    exec(compile(source, "<mutation>", "exec"), method.__globals__, names)
    compiled: Callable[..., Any] = names[method.__name__]
    return compiled
