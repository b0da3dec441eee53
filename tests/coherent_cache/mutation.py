"""Removes one safeguard from the protocol, by replacing a piece of its source text."""

import inspect
import textwrap
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import pytest


@dataclass(frozen=True)
class Mutation:
    """Replaces `old` with `new` in a script, or in the source of a function or method."""

    owner: Any
    name: str
    old: str
    new: str

    def apply(self, patch: pytest.MonkeyPatch) -> None:
        """Apply the mutation. Fails unless the source contains the old text exactly once."""
        original = getattr(self.owner, self.name)
        source = original if isinstance(original, str) else _source(original)
        count = source.count(self.old)
        assert count == 1, f"{self.name} contains {self.old!r} {count} times. Update the mutation."
        mutated = source.replace(self.old, self.new)
        if not isinstance(original, str):
            patch.setattr(self.owner, self.name, _compile(mutated, original))
        else:
            patch.setattr(self.owner, self.name, mutated)


def _source(function: Callable[..., Any]) -> str:
    return textwrap.dedent(inspect.getsource(function))


def _compile(source: str, function: Callable[..., Any]) -> Callable[..., Any]:
    names: dict[str, Any] = {}
    exec(compile(source, "<mutation>", "exec"), function.__globals__, names)
    compiled: Callable[..., Any] = names[function.__name__]
    return compiled
