"""What a caller says of the version that they mean to change: lost updates become impossible."""

import re
from dataclasses import dataclass

from app.errors import Stale

ENTITY_TAG = re.compile(r'(W/)?("[^"]*")')


@dataclass(frozen=True, slots=True)
class Precondition:
    """The header If-Match (RFC 9110, §13.1.1), or its absence, which allows any change."""

    if_match: str | None

    def require(self, version: int) -> None:
        """Raise `Stale` unless an entity tag, which begins with the version, is of this one.

        The rest of a tag tells how the thing is shown, which changes without anybody's edit. A weak
        tag matches nothing.
        """
        if self.if_match is None or self.if_match.strip() == "*":
            return
        tags = ENTITY_TAG.findall(self.if_match)
        if not any(not weak and tag.startswith(f'"{version}-') for weak, tag in tags):
            raise Stale("It was changed since you read it: read it again.")
