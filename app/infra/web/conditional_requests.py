"""The headers of a GET that decide what is sent: RFC 9110 §13, and RFC 9111 §5.2.1."""

import re
from functools import lru_cache
from typing import NamedTuple

from starlette.types import Scope

from app.infra.web.negotiation import encoding_weight, weights

ENTITY_TAG = re.compile(rb'(W/)?("[\x21\x23-\x7e\x80-\xff]*")')
LONGEST_ENCODING = 1_000  # a longer Accept-Encoding is ignored
ANY = b"*"


class CacheRequestHeaders(NamedTuple):
    """`no-cache` skips the memory of this process, and `no-store` bypasses the whole cache."""

    none_match: bytes
    accepts_gzip: bool
    skips_memory: bool
    bypasses_cache: bool

    def matches(self, etag: bytes) -> bool:
        """Whether the client already has this version. The comparison is weak: §8.8.3.2."""
        if not self.none_match:
            return False
        if self.none_match.strip() == ANY:
            return True
        opaque = etag.removeprefix(b"W/")
        return any(tag == opaque for _, tag in ENTITY_TAG.findall(self.none_match))


def read_cache_headers(scope: Scope) -> CacheRequestHeaders:
    """Read the headers in one pass."""
    none_match = encoding = control = b""
    for name, value in scope["headers"]:
        if name == b"accept-encoding":
            encoding = encoding + b"," + value if encoding else value
        elif name == b"if-none-match":
            none_match = none_match + b"," + value if none_match else value
        elif name == b"cache-control":
            control += value.lower()
    return CacheRequestHeaders(
        none_match,
        0 < len(encoding) <= LONGEST_ENCODING and accepts_gzip(encoding),
        bool(control) and (b"no-cache" in control or b"max-age=0" in control),
        bool(control) and b"no-store" in control,
    )


@lru_cache(maxsize=256)
def accepts_gzip(header: bytes) -> bool:
    """Whether Accept-Encoding allows gzip (RFC 9110, §12.5.3)."""
    return encoding_weight(weights(header.decode("latin-1")), "gzip") > 0
