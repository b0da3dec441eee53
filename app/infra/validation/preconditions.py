"""If-Match and If-None-Match of requests that change something (RFC 9110, §13).

They prevent lost updates. An entity tag of this service is the version of the resource and a digest
of its representation. A write compares only the version: the representation also changes when, for
example, the author changes their name.
"""

import re
from collections.abc import Sequence
from dataclasses import dataclass

from app.errors import Stale

ANY = "*"
# An element of a list, which may be empty (§5.6.1), and its comma. Possessive quantifiers (`*+`)
# keep the match linear. Otherwise a header of 32 KiB spaces would block the event loop for seconds.
ELEMENT = re.compile(
    r'[ \t]*+(?:(?P<weak>W/)?"(?P<tag>[\x21\x23-\x7e\x80-\xff]*+)")?+[ \t]*+(?:,|$)'
)
# An entity tag of this service: version, digest and encoding.
OWN_TAG = re.compile(r"(?P<version>0|[1-9][0-9]*)-[0-9a-f]{16}(?:-gzip)?")


@dataclass(frozen=True, slots=True)
class Precondition:
    """The two headers. Each is None when it was not sent."""

    if_match: str | None = None
    if_none_match: str | None = None

    def require(self, version: int | None = None, *, exists: bool = True) -> None:
        """Raise `Stale` if the resource, with this version, does not meet the conditions.

        A resource without a version has no entity tags, so only `*` matches it. Nothing matches one
        that does not exist. A weak tag can match in If-None-Match, but not in If-Match (§13.1).
        """
        if self.if_match is not None and not (
            _lists(self.if_match, version, weak=False) and exists
        ):
            raise Stale("The resource has changed since you read it. Read it again.")
        if self.if_none_match is not None and (
            _lists(self.if_none_match, version, weak=True) and exists
        ):
            raise Stale("The resource exists, and If-None-Match forbids that.")


UNCONDITIONAL = Precondition()


def join_header_lines(lines: Sequence[str]) -> str | None:
    """Join the lines of a header into one value, or return None without a line."""
    return ", ".join(lines) if lines else None


def _lists(header: str, version: int | None, *, weak: bool) -> bool:
    """Return whether the list has a tag of this version. Raise `Stale` if it is malformed."""
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
