"""The import contracts hold, and each of them breaks when it is violated."""

import re
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

PROJECT = Path(__file__).parents[2]
LINT = "from importlinter.cli import lint_imports_command as lint; lint()"

VIOLATIONS = {
    "app/infra/health.py": "import app.features.users.models",
    "app/features/users/queries.py": "import app.features.auth.models",
    "app/features/users/models.py": "import app.features.users.service",
    "app/features/users/service.py": "import fastapi",
    "app/features/auth/queries.py": "import app.features.auth.schemas",
    "app/main.py": "import dev.servers",
    "app/infra/lifespan.py": "import coherent_cache.store",
    "app/infra/server/wiring.py": "import graceful_gunicorn.protocol",
    "coherent_cache/outbox.py": "import fastapi",
    "graceful_gunicorn/config.py": "import coherent_cache",
    "tests/coherent_cache/conftest.py": "import tests.application",
    "tests/graceful_gunicorn/conftest.py": "import tests.application",
}
PACKAGES = ("app", "coherent_cache", "graceful_gunicorn", "dev", "tests")
STRANGERS = ["app/helpers.py", "app/features/stray/__init__.py", "app/features/users/utils.py"]


@pytest.fixture
def copy(tmp_path: Path) -> Path:
    """A copy of the packages that the contracts name."""
    shutil.copy(PROJECT / "pyproject.toml", tmp_path)
    for package in PACKAGES:
        shutil.copytree(PROJECT / package, tmp_path / package)
    return tmp_path


def lint(folder: Path) -> str:
    """Check the contracts in `folder`."""
    command = [sys.executable, "-c", LINT, "--no-cache"]
    return subprocess.run(
        command, cwd=folder, capture_output=True, text=True, check=False, encoding="utf-8"
    ).stdout


def test_every_contract_breaks_when_it_is_violated(copy: Path) -> None:
    assert "0 broken" in lint(copy)
    for path, line in VIOLATIONS.items():
        with (copy / path).open("a", encoding="utf-8") as file:
            file.write(f"\n{line}\n")
    output = lint(copy)
    assert len(re.findall(r"BROKEN(?: \(.*\))?$", output, re.MULTILINE)) == len(VIOLATIONS), output


def test_module_without_a_layer_is_named(copy: Path) -> None:
    for path in STRANGERS:
        (copy / path).parent.mkdir(exist_ok=True)
        (copy / path).touch()
    output = lint(copy)
    for name in ("helpers", "stray", "utils"):
        assert name in output


@pytest.mark.parametrize("package", ["app", "coherent_cache", "graceful_gunicorn"])
def test_no_file_has_more_than_250_lines(package: str) -> None:
    for file in (PROJECT / package).rglob("*.py"):
        assert len(file.read_text(encoding="utf-8").splitlines()) <= 250, file
