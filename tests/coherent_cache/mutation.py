"""Removes one safeguard of the protocol, by replacing a named function with a broken one."""

import re
from collections.abc import Callable
from typing import Any

import pytest

from coherent_cache import scripts

Mutation = Callable[[pytest.MonkeyPatch], None]
BrokenMethod = Callable[..., Any]


def broken(owner: Any, name: str, replacement: BrokenMethod) -> Mutation:
    """Replace a function of a module or a method of a class."""
    return lambda patch: patch.setattr(owner, name, replacement)


def wrapped(owner: Any, name: str, wrap: Callable[[Any], BrokenMethod]) -> Mutation:
    """Replace a method by one that calls the original, which `wrap` receives."""
    return lambda patch: patch.setattr(owner, name, wrap(getattr(owner, name)))


def broken_lua(script: str, definition: str) -> Mutation:
    """Replace a function of a Lua script by another definition of the same function."""
    header = re.match(r"local function (\w+)\(", definition)
    assert header, definition

    def apply(patch: pytest.MonkeyPatch) -> None:
        # From the function's first line to its `end`, which is the next line without indentation.
        pattern = rf"^local function {header[1]}\(.*\n(?:[ ].*\n)*end\n"
        mutated, count = re.subn(
            pattern, lambda _: definition, getattr(scripts, script), flags=re.MULTILINE
        )
        assert count == 1, f"{script} defines {header[1]} {count} times."
        patch.setattr(scripts, script, mutated)

    return apply
