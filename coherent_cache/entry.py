"""A cache entry and its binary encoding in Valkey.

The encoding uses no pickle and stores the value unchanged. It contains the lengths of its parts and
a checksum, so a truncated or altered entry is a miss.
"""

import struct
import time
import zlib
from dataclasses import dataclass, field
from typing import Any

SCHEMA = b"\x03"  # change it with the layout: entries of another schema are misses
TOKEN_BYTES = 16
FILL_ID = slice(1, 1 + len(SCHEMA) + TOKEN_BYTES)  # after the "V"; LEASE relies on this offset
HEADER = struct.Struct(f">{len(SCHEMA)}s{TOKEN_BYTES}sH")  # schema, random id, number of tags
CHECKSUM = struct.Struct(">I")
CONTENT = struct.Struct(">dHII")  # expiry time; lengths of the key, the tags and the value


@dataclass(slots=True)
class Entry:
    """A cached value, with a tag for everything that the value shows.

    `key` is stored with the value, so that a reply to another command is recognised as a miss.
    `ttl_seconds` is reduced to that of `CacheConfig` when the entry is stored.
    `expires_at` is the end of the TTL by `time.time()` of the process that stored the entry.
    `tokens` are the tag tokens at the time of the fill. The entry is valid while its tags still
    have these tokens.
    `tag_keys` are the keys of the tag tokens in Valkey.
    `view` may hold what the caller decoded from the value. It lives as long as the entry is in
    memory.
    `validated_at` is the `time.monotonic()` at which the entry was loaded or last validated.
    """

    key: str
    tags: tuple[str, ...]
    value: bytes
    ttl_seconds: float = 60.0
    expires_at: float = field(default=float("inf"), compare=False)
    tokens: bytes = field(default=b"", compare=False, repr=False)
    tag_keys: tuple[str, ...] = field(default=(), compare=False, repr=False)
    view: Any = field(default=None, compare=False, repr=False)
    validated_at: float = field(default=0.0, compare=False, repr=False)

    @property
    def is_alive(self) -> bool:
        return self.expires_at > time.time()

    def encode(self, header: bytes) -> bytes:
        """Start the TTL, and return the checksum and the content of the encoded entry.

        The FILL script puts `header` and the tag tokens in front of it. The checksum covers
        `header`. It does not need to cover the tokens: a damaged token differs from the token of
        its tag, so the entry is invalid.
        """
        self.expires_at = time.time() + self.ttl_seconds
        key, tags = self.key.encode(), "\n".join(self.tags).encode()
        lengths = CONTENT.pack(self.expires_at, len(key), len(tags), len(self.value))
        content = b"".join((lengths, key, tags, self.value))
        return CHECKSUM.pack(checksum_of(header, content)) + content


def decode_entry(raw: bytes) -> Entry | None:
    """Decode an entry that FILL stored. Return None for another layout or a damaged entry."""
    if raw[: 1 + len(SCHEMA)] != b"V" + SCHEMA:
        return None
    tokens_at = 1 + HEADER.size
    try:
        count: int = HEADER.unpack_from(raw, 1)[-1]
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
    is_complete = len(raw) == value_at + value_length
    if not is_complete or checksum_of(raw[1:tokens_at], content) != checksum:
        return None
    names = raw[tags_at:value_at].decode()
    tags = tuple(names.split("\n")) if names else ()
    entry = Entry(raw[key_at:tags_at].decode(), tags, raw[value_at:], expires_at=expires_at)
    entry.tokens = raw[tokens_at:envelope_at]
    return entry


def checksum_of(header: bytes, content: bytes | memoryview) -> int:
    return zlib.crc32(content, zlib.crc32(header))
