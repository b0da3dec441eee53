"""The client that `make client` generates, for tests that call the service with it."""

import importlib
import json
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest

from dev import openapi
from tests.contract.serving import Served


@contextmanager
def generate_client(served: Served, folder: Path) -> Iterator[Any]:
    """Generate a client, and return a function that imports a module of it."""
    document, client = folder / "openapi.json", folder / "client"
    document.write_text(json.dumps(served.app.openapi()), encoding="utf-8")
    left_out = openapi.generate_client(document, client, "service-client")
    assert left_out == ""
    package = package_of(client)
    with pytest.MonkeyPatch.context() as patch:
        patch.syspath_prepend(client)
        yield lambda name: importlib.import_module(f"{package}.{name}")
    for name in [name for name in sys.modules if name.partition(".")[0] == package]:
        del sys.modules[name]


def package_of(client: Path) -> str:
    """Return the name of the generated package."""
    [module] = client.glob("*/__init__.py")
    return module.parent.name
