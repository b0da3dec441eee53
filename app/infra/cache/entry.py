"""What the cache holds, and how it is written down: no pickles, and the value as it came."""

import struct
from dataclasses import dataclass

SCHEMA = 1  # moves when the layout does: what older code has stored is then a miss
TOKEN_BYTES = 16
HEAD = struct.Struct(f">{TOKEN_BYTES}sH")  # fill id, number of tags
ENVELOPE = struct.Struct(">BHI")  # schema, length of the key, length of the tags


@dataclass(frozen=True, slots=True)
class Entry:
    """A value with the tags of everything it shows. `key` guards against crossed replies."""

    key: str
    tags: tuple[str, ...]
    value: bytes
    ttl_seconds: float = 60.0

    def envelope(self) -> bytes:
        """Write the entry down, without what decides whether it is valid."""
        key, tags = self.key.encode(), "\n".join(self.tags).encode()
        return ENVELOPE.pack(SCHEMA, len(key), len(tags)) + key + tags + self.value


@dataclass(frozen=True, slots=True)
class Stored:
    """An entry as it stood in Valkey: valid while its tokens are those of its tags."""

    fill_id: bytes
    tokens: tuple[bytes, ...]
    entry: Entry | None


def read_stored(raw: bytes, key: str) -> Stored:
    """Read what FILL has written. The entry is None when it is another's, or of another schema."""
    fill_id, count = HEAD.unpack_from(raw, 1)
    at = 1 + HEAD.size
    tokens = tuple(raw[at + i * TOKEN_BYTES :][:TOKEN_BYTES] for i in range(count))
    at += count * TOKEN_BYTES
    schema, key_length, tags_length = ENVELOPE.unpack_from(raw, at)
    tags_at = at + ENVELOPE.size + key_length
    value_at = tags_at + tags_length
    if schema != SCHEMA or raw[at + ENVELOPE.size : tags_at] != key.encode():
        return Stored(fill_id, tokens, None)
    tags = tuple(raw[tags_at:value_at].decode().split("\n")) if tags_length else ()
    return Stored(fill_id, tokens, Entry(key, tags, raw[value_at:]))
