"""The installation of the packages in .venv. The package index is a folder with small wheels."""

import base64
import hashlib
import shutil
import subprocess
import tomllib
import zipfile
from collections.abc import Iterator
from pathlib import Path

import pytest

from dev import install
from dev.servers import ROOT
from dev.terminal import CommandError

# In place of uv: it notes the index and the proxy that it was given, and ends with UV_CODE.
UV = """
import os, pathlib, sys
for file, name in ("index", "UV_DEFAULT_INDEX"), ("proxy", "ALL_PROXY"):
    pathlib.Path(file).write_text(os.environ.get(name, ""), encoding="utf-8")
sys.exit(int(os.environ["UV_CODE"]))
"""


@pytest.fixture(scope="module")
def project(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Path]:
    """A folder in which something can be installed, from a package index in it."""
    project = tmp_path_factory.mktemp("project")
    for folder in ("requirements", "wheels"):
        (project / folder).mkdir()
    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(project)
        for name in ("PIP_INDEX_URL", "PIP_EXTRA_INDEX_URL", "PIP_CONSTRAINT", "PIP_PROXY"):
            patch.delenv(name, raising=False)
        for name in ("UV_DEFAULT_INDEX", "ALL_PROXY"):
            patch.delenv(name, raising=False)
        patch.setenv("PIP_CONFIG_FILE", "/dev/null")
        patch.setenv("PIP_NO_INDEX", "1")
        patch.setenv("UV_CODE", "1")
        patch.setenv("PIP_FIND_LINKS", str(project / "wheels"))
        yield project


def wheel(project: Path, name: str, module: str, code: str) -> str:
    """Write a wheel, and return its line of a lock file."""
    files = {
        f"{name}/__init__.py": "",
        f"{name}/{module}.py": code,
        f"{name}-1.0.dist-info/METADATA": f"Metadata-Version: 2.1\nName: {name}\nVersion: 1.0\n",
        f"{name}-1.0.dist-info/WHEEL": "Wheel-Version: 1.0\nTag: py3-none-any\n",
    }
    record = ""
    for path, content in files.items():
        digest = base64.urlsafe_b64encode(hashlib.sha256(content.encode()).digest()).rstrip(b"=")
        record += f"{path},sha256={digest.decode()},{len(content)}\n"
    file = project / f"wheels/{name}-1.0-py3-none-any.whl"
    with zipfile.ZipFile(file, "w") as archive:
        for path, content in {**files, f"{name}-1.0.dist-info/RECORD": record}.items():
            archive.writestr(path, content)
    return f"{name}==1.0 \\\n    --hash=sha256:{hashlib.sha256(file.read_bytes()).hexdigest()}\n"


def write_lock(project: Path, package: str) -> str:
    """Write a lock file, and return the stamp of an environment that has its packages."""
    lock = wheel(project, package, "hello", "")
    lock += wheel(project, "uv", "__main__", UV)
    (project / "requirements/run.txt").write_text(lock, encoding="utf-8")
    return f"{project}\n{package}"


def is_installed(project: Path, package: str) -> bool:
    command = [str(project / ".venv/bin/python"), "-c", f"import {package}.hello"]
    return subprocess.run(command, check=False, capture_output=True).returncode == 0


def test_pip_installs_the_packages_where_uv_cannot(
    project: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    stamp = write_lock(project, "first")
    install.main("run", stamp)
    assert is_installed(project, "first")
    assert "so pip does" in capsys.readouterr().out
    assert (project / ".venv/.installed").read_text(encoding="utf-8") == stamp


def test_uv_uses_the_package_index_and_the_proxy_of_pip(
    project: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("UV_CODE", "0")
    monkeypatch.setenv("PIP_INDEX_URL", "https://index.example.com/simple")
    monkeypatch.setenv("PIP_PROXY", "http://proxy.example.com:3128")
    install.main("run", write_lock(project, "second"))
    index = (project / "index").read_text(encoding="utf-8")
    assert index == "https://index.example.com/simple"
    proxy = (project / "proxy").read_text(encoding="utf-8")
    assert proxy == "http://proxy.example.com:3128"
    assert not is_installed(project, "second")  # pip did not run as well


def test_a_file_that_is_not_the_locked_one_is_refused(project: Path) -> None:
    stamp = write_lock(project, "third")
    wheel(project, "third", "hello", "changed = True")
    with pytest.raises(CommandError, match="other files than the lock"):
        install.main("run", stamp)
    assert not (project / ".venv/.installed").exists()
    assert not is_installed(project, "third")


def test_pyproject_has_no_constraint_that_makes_uv_refuse_the_lock_files() -> None:
    """Write an upper bound among the dependencies: as a constraint of uv, it has no hash."""
    settings = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))["tool"]["uv"]
    assert not settings.keys() & {"constraint-dependencies", "override-dependencies"}


def test_a_linked_environment_is_not_emptied(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "other").mkdir()
    (tmp_path / "other/file").touch()
    (tmp_path / ".venv").symlink_to("other")
    monkeypatch.chdir(tmp_path)
    with pytest.raises(CommandError, match="Remove the link"):
        install.main("run", f"{tmp_path}\n0")
    assert (tmp_path / "other/file").exists()


@pytest.mark.parametrize(
    ("installed", "wanted", "complete"),
    [
        ("bench", "run", True),
        ("bench", "dev", True),
        ("dev", "run", True),
        ("dev", "dev", True),
        ("dev", "bench", False),
        ("run", "run", True),
        ("run", "dev", False),
    ],
)
def test_an_environment_with_more_packages_is_enough(
    tmp_path: Path, installed: str, wanted: str, complete: bool
) -> None:
    for name in ("dev", "requirements"):
        shutil.copytree(ROOT / name, tmp_path / name)
    (tmp_path / ".venv/bin").mkdir(parents=True)
    (tmp_path / ".venv/bin/python").symlink_to("/bin/true")  # it has every package
    stamp = f"(pwd -P && cksum <requirements/{installed}.txt) >.venv/.installed"
    subprocess.run(["sh", "-c", stamp], cwd=tmp_path, check=True)
    # No Python can be found that would install something.
    command = ["sh", "dev/environment.sh", wanted]
    environment = {"PATH": "/usr/bin:/bin", "PYTHON": "/nonexistent"}
    result = subprocess.run(
        command, cwd=tmp_path, env=environment, check=False, capture_output=True
    )
    assert (result.returncode == 0) is complete
