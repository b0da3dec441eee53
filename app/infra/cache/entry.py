"""What the cache holds, and how it is written down: no pickles, and the value as it came.

A stored value carries its length and a checksum. What Valkey returns cut or altered is a miss.
"""

import struct
import time
import zlib
from dataclasses import dataclass, field
from typing import Any

SCHEMA = b"\x03"  # moves when the layout does: what older code has stored is then a miss
TOKEN_BYTES = 16
FILL_ID = slice(1, 1 + len(SCHEMA) + TOKEN_BYTES)  # after the "V"; the scripts know this place
HEAD = struct.Struct(f">{len(SCHEMA)}s{TOKEN_BYTES}sH")  # schema, random, number of tags
CHECKSUM = struct.Struct(">I")
CONTENT = struct.Struct(">dHII")  # end of its life; lengths of the key, the tags and the value


@dataclass(slots=True)
class Entry:
    """A value with the tags of everything it shows. `key` guards against crossed replies.

    `tokens` are those that the tags had when it was stored: it is valid while they still have them.
    `names` are the tags as Valkey knows them.
    `view` is what a reader has made of the value; it stays as long as the entry is in memory.
    `validated_at` is when it was loaded or Valkey confirmed it, by the monotonic clock.
    """

    key: str
    tags: tuple[str, ...]
    value: bytes
    ttl_seconds: float = 60.0
    expires_at: float = field(default=float("inf"), compare=False)
    tokens: bytes = field(default=b"", compare=False, repr=False)
    names: tuple[str, ...] = field(default=(), compare=False, repr=False)
    view: Any = field(default=None, compare=False, repr=False)
    validated_at: float = field(default=0.0, compare=False, repr=False)

    @property
    def is_alive(self) -> bool:
        """Whether its life, by the clock of who stored it, has not ended."""
        return self.expires_at > time.time()

    def envelope(self, head: bytes) -> bytes:
        """Begin its life, and write it down, without what decides whether it is valid.

        The checksum covers `head` as well. It does not cover the tag tokens between the two, which
        the FILL script adds: a damaged token differs from the token of its tag.
        """
        self.expires_at = time.time() + self.ttl_seconds
        key, tags = self.key.encode(), "\n".join(self.tags).encode()
        lengths = CONTENT.pack(self.expires_at, len(key), len(tags), len(self.value))
        content = b"".join((lengths, key, tags, self.value))
        return CHECKSUM.pack(zlib.crc32(content, zlib.crc32(head))) + content


def read_stored(raw: bytes) -> Entry | None:
    """Read what FILL has written. Return None for another layout, and for a damaged value."""
    if raw[: 1 + len(SCHEMA)] != b"V" + SCHEMA:
        return None
    tokens_at = 1 + HEAD.size
    try:
        count: int = HEAD.unpack_from(raw, 1)[-1]
        envelope_at = tokens_at + count * TOKEN_BYTES
        content_at = envelope_at + CHECKSUM.size
        (checksum,) = CHECKSUM.unpack_from(raw, envelope_at)
        expires_at, key_length, tags_length, value_length = CONTENT.unpack_from(raw, content_at)
    except struct.error:
        return None
    key_at = content_at + CONTENT.size
    tags_at = key_at + key_length
    value_at = tags_at + tags_length
    content = memoryview(raw)[content_at:]
    is_whole = len(raw) == value_at + value_length
    if not is_whole or zlib.crc32(content, zlib.crc32(raw[1:tokens_at])) != checksum:
        return None
    names = raw[tags_at:value_at].decode()
    tags = tuple(names.split("\n")) if names else ()
    entry = Entry(raw[key_at:tags_at].decode(), tags, raw[value_at:], expires_at=expires_at)
    entry.tokens = raw[tokens_at:envelope_at]
    return entry
