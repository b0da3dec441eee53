"""Conditions of a request that changes something (RFC 9110, §13): lost updates become impossible.

An entity tag begins with the version of what it shows. The rest of it is a digest of how the thing
is shown, which changes without anybody's edit: whoever writes is asked for the version alone.
"""

import re
from collections.abc import Sequence
from dataclasses import dataclass

from app.errors import Stale

ANY = "*"
# An element of a list, which may be empty (§5.6.1), with the comma after it (§8.8.3). The `+` after
# each quantifier keeps it linear: otherwise 32 KiB of spaces would hold the event loop for seconds.
ELEMENT = re.compile(
    r'[ \t]*+(?:(?P<weak>W/)?"(?P<tag>[\x21\x23-\x7e\x80-\xff]*+)")?+[ \t]*+(?:,|$)'
)
# As entity tags of this service are: version, digest, and the form that was sent.
OWN_TAG = re.compile(r"(?P<version>0|[1-9][0-9]*)-[0-9a-f]{16}(?:-gzip)?")


@dataclass(frozen=True, slots=True)
class Precondition:
    """If-Match and If-None-Match, each None when it was not sent."""

    if_match: str | None = None
    if_none_match: str | None = None

    def require(self, version: int | None = None) -> None:
        """Raise `Stale` unless a thing that exists, and has this version, meets the conditions.

        A thing without a version has no entity tags, so that only "*" matches it. A weak tag can
        match for If-None-Match alone (§13.1.2).
        """
        if self.if_match is not None and not _lists(self.if_match, version, weak=False):
            raise Stale("It was changed since you read it: read it again.")
        if self.if_none_match is not None and _lists(self.if_none_match, version, weak=True):
            raise Stale("It exists, and If-None-Match says that it must not.")


def join_header_lines(lines: Sequence[str]) -> str | None:
    """Return the value of a header that was sent in several lines, or None if there is none."""
    return ", ".join(lines) if lines else None


def _lists(header: str, version: int | None, *, weak: bool) -> bool:
    """Whether a list has an entity tag of this version. Raise `Stale` if it is not a list."""
    if header.strip(" \t") == ANY:
        return True
    found, position = False, 0
    while position < len(header):
        element = ELEMENT.match(header, position)
        if element is None:
            raise Stale("The condition is neither * nor a list of entity tags.")
        own = OWN_TAG.fullmatch(element["tag"] or "")
        found = found or bool(
            own and own["version"] == f"{version}" and (weak or not element["weak"])
        )
        position = element.end()
    return found
