"""Compresses a response while it is being sent."""

import zlib
from typing import Protocol

import zstandard

GZIP_LEVEL, GZIP_FORMAT = 5, 31
ZSTD_LEVEL = 3  # its window is 2 MiB, and clients must support 8 MiB (RFC 9659)


class Encoder(Protocol):
    """A content coding of one response."""

    def encode(self, data: memoryview) -> bytes:
        """Compress data so that a client can decompress all of it at once."""

    def finish(self) -> bytes:
        """Return the end of the compressed data."""


class GzipEncoder:
    def __init__(self) -> None:
        self._compressor = zlib.compressobj(GZIP_LEVEL, wbits=GZIP_FORMAT)

    def encode(self, data: memoryview) -> bytes:
        return self._compressor.compress(data) + self._compressor.flush(zlib.Z_SYNC_FLUSH)

    def finish(self) -> bytes:
        return self._compressor.flush()


class ZstdEncoder:
    def __init__(self) -> None:
        self._compressor = zstandard.ZstdCompressor(ZSTD_LEVEL).compressobj()

    def encode(self, data: memoryview) -> bytes:
        flush = zstandard.COMPRESSOBJ_FLUSH_BLOCK
        return self._compressor.compress(data) + self._compressor.flush(flush)

    def finish(self) -> bytes:
        return self._compressor.flush()


# The first one is chosen for a client that accepts several alike.
ENCODERS: dict[str, type[GzipEncoder] | type[ZstdEncoder]] = {
    "zstd": ZstdEncoder,
    "gzip": GzipEncoder,
}
