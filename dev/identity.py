"""Whom a server runs as. PostgreSQL refuses root, which therefore lends it another identity.

Where the machine allows it that is a user namespace: nobody inside, root outside, so that root's
closed folders stay usable. Elsewhere it is the user nobody.
"""

import os
import pwd
import subprocess
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import IO

from app.infra.settings_base.sources import LIBPQ_VARIABLE

_NAMESPACE = ("unshare", "--user", "--map-user=65534", "--map-group=65534", "--")


@dataclass(frozen=True)
class Identity:
    """The caller itself, unless a prefix command or a user says otherwise."""

    prefix: tuple[str, ...] = ()
    user: int | None = None
    group: int | None = None

    def hand_over(self, path: Path) -> None:
        """Give a path that the caller made to this user."""
        if self.user is not None and self.group is not None:
            os.chown(path, self.user, self.group)


def unprivileged_identity() -> Identity:
    """Choose an identity that PostgreSQL accepts."""
    if os.geteuid() != 0:
        return Identity()
    if _namespaces_work():
        return Identity(prefix=_NAMESPACE)
    nobody = pwd.getpwnam("nobody")
    return Identity(user=nobody.pw_uid, group=nobody.pw_gid)


def spawn(
    identity: Identity,
    command: Sequence[str],
    *,
    output: IO[bytes] | int,
    inherit: Sequence[int] = (),
) -> subprocess.Popen[bytes]:
    """Start the command with a pipe as its standard input, and the descriptors of `inherit`."""
    return subprocess.Popen(
        [*identity.prefix, *command],
        stdin=subprocess.PIPE,
        stdout=output,
        stderr=subprocess.STDOUT,
        cwd="/",  # the only folder that every identity may enter everywhere
        env=_environment(),
        pass_fds=inherit,
        user=identity.user,
        group=identity.group,
        extra_groups=None if identity.group is None else [],
    )


def _environment() -> dict[str, str]:
    """Leave out what changes PostgreSQL's programs: they behave as on every other machine."""
    kept = {name: text for name, text in os.environ.items() if not LIBPQ_VARIABLE.fullmatch(name)}
    return kept | {"LC_ALL": "C"}


def _namespaces_work() -> bool:
    try:
        trial = subprocess.run([*_NAMESPACE, "true"], capture_output=True, check=False)
    except FileNotFoundError:
        return False
    return trial.returncode == 0
