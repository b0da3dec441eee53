"""The OpenAPI document of the service, and the client that is generated from it."""

import json
import shutil
import subprocess
import sys
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

from dev.rename import current_name
from dev.servers import ROOT
from dev.terminal import CommandError, say
from dev.tools import run_module

DOCUMENT = "tests/contract/openapi.json"
CLIENT = "clients/python"
BINARY = {"type": "string", "format": "binary"}
OCTETS = "application/octet-stream"  # the only binary media type that the generator knows
GENERATE = "from openapi_python_client.cli import app; app()"


def write_document() -> None:
    """Write the document to the file with which a test compares it."""
    # Imported here, because the other commands need no settings of the service.
    from app.main import create_app
    from app.settings import Settings

    document = create_app(Settings.model_validate({"docs": {"enabled": True}})).openapi()
    (ROOT / DOCUMENT).write_text(json.dumps(document, indent=2) + "\n", encoding="utf-8")


def write_client(folder: Path) -> None:
    """Generate the client from the file, and replace the folder by it."""
    with TemporaryDirectory() as parent:
        new = Path(parent) / "client"
        if left_out := generate_client(ROOT / DOCUMENT, new, f"{current_name()}-client"):
            say(left_out)
        shutil.rmtree(folder, ignore_errors=True)
        shutil.copytree(new, folder)


def generate_client(document: Path, folder: Path, name: str) -> str:
    """Generate a package with its metadata. Return what is said about parts that are left out."""
    configuration = folder.with_suffix(".json")
    # The hooks of the generator look for ruff on the PATH.
    options = {
        "project_name_override": name,
        "post_hooks": [],
        "content_type_overrides": dict.fromkeys(_binary_media_types(document), OCTETS),
    }
    configuration.write_text(json.dumps(options), encoding="utf-8")
    arguments = ["generate", "--meta", "uv", "--path", str(document)]
    arguments += ["--config", str(configuration), "--output-path", str(folder)]
    done = subprocess.run(
        [sys.executable, "-c", GENERATE, *arguments],
        capture_output=True,
        encoding="utf-8",
        check=False,
    )
    said = "\n".join(
        line for line in done.stdout.splitlines() if not line.startswith("Generating ")
    )
    if done.returncode:
        raise CommandError(
            f"{said}{done.stderr}\nThe client was not generated. Correct the API as it says above."
        )
    run_module("ruff", "check", "--fix-only", "--quiet", str(folder))
    run_module("ruff", "format", "--quiet", str(folder))
    return (said + done.stderr).strip()


def _binary_media_types(document: Path) -> set[str]:
    """Return the media types of the document whose content is bytes, such as those of pictures."""
    found = set()

    def visit(node: Any) -> None:
        if isinstance(node, dict):
            for name, value in node.items():
                if isinstance(value, dict) and value.get("schema") == BINARY:
                    found.add(name)
                visit(value)
        elif isinstance(node, list):
            for one in node:
                visit(one)

    visit(json.loads(document.read_text(encoding="utf-8")))
    return found
