"""Alembic in the process of the tests. A process of its own needs a second to import the models."""

import asyncio
import os
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from alembic.config import Config

PROJECT = Path(__file__).parents[1]


async def run_alembic(command: Callable[..., Any], url: str, *arguments: str) -> None:
    """Run a function of `alembic.command` on the database at `url`, with migrations/env.py."""
    config = Config(toml_file=PROJECT / "pyproject.toml")
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("DATABASE_URL", url)
        patch.setenv("VALKEY_URL", os.environ["TEST_VALKEY_URL"])
        # env.py starts an event loop, and a thread has one at most.
        await asyncio.to_thread(command, config, *arguments)
