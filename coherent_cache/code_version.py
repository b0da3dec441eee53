"""Separates the entries of different releases, which may encode the same data differently."""

from functools import cache
from hashlib import blake2b
from pathlib import Path


@cache
def code_digest(*folders: Path) -> str:
    """Return a digest of the Python files in `folders`. It becomes part of every entry's key.

    During a rolling deployment, the old and the new release therefore never read each other's
    entries. Tags do not contain the version, so each release invalidates the entries of both.
    """
    digest = blake2b(digest_size=6)
    for folder in folders:
        for file in sorted(folder.rglob("*.py")):
            digest.update(str(file.relative_to(folder.parent)).encode())
            digest.update(file.read_bytes())
    return digest.hexdigest()
