"""What the cache holds, and how it is written down: no pickles, and the value as it came."""

import struct
from dataclasses import dataclass, field
from typing import Any

SCHEMA = b"\x01"  # moves when the layout does: what older code has stored is then a miss
TOKEN_BYTES = 16
FILL_ID = slice(1, 1 + len(SCHEMA) + TOKEN_BYTES)  # after the "V"; the scripts know this place
HEAD = struct.Struct(f">{len(SCHEMA)}s{TOKEN_BYTES}sH")  # schema, random, number of tags
ENVELOPE = struct.Struct(">HI")  # length of the key, length of the tags


@dataclass(slots=True)
class Entry:
    """A value with the tags of everything it shows. `key` guards against crossed replies.

    `view` is what a reader has made of the value: it stays as long as the entry is in memory.
    """

    key: str
    tags: tuple[str, ...]
    value: bytes
    ttl_seconds: float = 60.0
    view: Any = field(default=None, compare=False, repr=False)

    def envelope(self) -> bytes:
        """Write the entry down, without what decides whether it is valid."""
        key, tags = self.key.encode(), "\n".join(self.tags).encode()
        return ENVELOPE.pack(len(key), len(tags)) + key + tags + self.value


@dataclass(frozen=True, slots=True)
class Stored:
    """An entry as it stood in Valkey: valid while its tokens are those that its tags have now."""

    tokens: bytes
    entry: Entry


def read_stored(raw: bytes) -> Stored | None:
    """Read what FILL has written, or return None for anything else."""
    if raw[: 1 + len(SCHEMA)] != b"V" + SCHEMA:
        return None
    try:
        count: int = HEAD.unpack_from(raw, 1)[-1]
        tokens_at = 1 + HEAD.size
        envelope_at = tokens_at + count * TOKEN_BYTES
        key_length, tags_length = ENVELOPE.unpack_from(raw, envelope_at)
        key_at = envelope_at + ENVELOPE.size
        tags_at = key_at + key_length
        value_at = tags_at + tags_length
        key, names = raw[key_at:tags_at].decode(), raw[tags_at:value_at].decode()
    except (struct.error, UnicodeDecodeError):
        return None
    tags = tuple(names.split("\n")) if names else ()
    return Stored(raw[tokens_at:envelope_at], Entry(key, tags, raw[value_at:]))
