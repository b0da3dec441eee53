"""What the cache holds, and how it is written down: no pickles, and the value as it came."""

import struct
import time
from dataclasses import dataclass, field
from typing import Any

SCHEMA = b"\x02"  # moves when the layout does: what older code has stored is then a miss
TOKEN_BYTES = 16
FILL_ID = slice(1, 1 + len(SCHEMA) + TOKEN_BYTES)  # after the "V"; the scripts know this place
HEAD = struct.Struct(f">{len(SCHEMA)}s{TOKEN_BYTES}sH")  # schema, random, number of tags
ENVELOPE = struct.Struct(">dHI")  # end of its life, length of the key, length of the tags


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

    def envelope(self) -> bytes:
        """Begin its life, and write it down, without what decides whether it is valid."""
        self.expires_at = time.time() + self.ttl_seconds
        key, tags = self.key.encode(), "\n".join(self.tags).encode()
        return ENVELOPE.pack(self.expires_at, len(key), len(tags)) + key + tags + self.value


def read_stored(raw: bytes) -> Entry | None:
    """Read what FILL has written, or return None for anything else."""
    if raw[: 1 + len(SCHEMA)] != b"V" + SCHEMA:
        return None
    try:
        count: int = HEAD.unpack_from(raw, 1)[-1]
        tokens_at = 1 + HEAD.size
        envelope_at = tokens_at + count * TOKEN_BYTES
        expires_at, key_length, tags_length = ENVELOPE.unpack_from(raw, envelope_at)
        key_at = envelope_at + ENVELOPE.size
        tags_at = key_at + key_length
        value_at = tags_at + tags_length
        key, names = raw[key_at:tags_at].decode(), raw[tags_at:value_at].decode()
    except (struct.error, UnicodeDecodeError):
        return None
    tags = tuple(names.split("\n")) if names else ()
    entry = Entry(key, tags, raw[value_at:], expires_at=expires_at)
    entry.tokens = raw[tokens_at:envelope_at]
    return entry
