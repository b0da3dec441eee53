"""Generates a client from the OpenAPI document."""

import importlib
import json
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest

from tests.contract.serving import Served

PACKAGE = "generated_client"
# Without its hooks, which format and lint: they look for tools on the PATH.
CONFIGURATION = {"post_hooks": [], "package_name_override": PACKAGE}
GENERATE = "from openapi_python_client.cli import app; app()"


@contextmanager
def generate_client(served: Served, folder: Path) -> Iterator[Any]:
    """Generate a client, and return a function that imports a module of it."""
    (folder / "openapi.json").write_text(json.dumps(served.app.openapi()), encoding="utf-8")
    (folder / "configuration.json").write_text(json.dumps(CONFIGURATION), encoding="utf-8")
    command = [sys.executable, "-c", GENERATE, "generate", "--meta", "none", "--fail-on-warning"]
    command += ["--path", "openapi.json", "--config", "configuration.json"]
    command += ["--output-path", PACKAGE]
    done = subprocess.run(
        command, cwd=folder, capture_output=True, text=True, check=False, encoding="utf-8"
    )
    assert done.returncode == 0, done.stdout + done.stderr
    with pytest.MonkeyPatch.context() as patch:
        patch.syspath_prepend(folder)
        yield lambda name: importlib.import_module(f"{PACKAGE}.{name}")
    for name in [name for name in sys.modules if name.partition(".")[0] == PACKAGE]:
        del sys.modules[name]
