"""The configuration of the cache."""

from dataclasses import dataclass
from functools import cache
from hashlib import blake2b
from pathlib import Path


@dataclass(frozen=True, slots=True, kw_only=True)
class CacheConfig:
    """Where Valkey is, how much the cache may keep, and how long its operations may take.

    `valkey_url` is a redis-py URL (`redis://`, `rediss://`, `unix://`). For a cluster, it may name
    any node.
    `code_version` separates the entries of different releases; see `code_digest()`.
    `namespace` separates services that share one Valkey and one database.
    `ttl_seconds` is the longest TTL of any entry. A change that could not be invalidated for longer
    is given up.
    `memory_bytes` bounds the estimated size of the entries in the memory of each process.
    `memory_ttl_seconds` is how long an entry in process memory is used without asking Valkey. 0
    switches the memory tier off.
    `max_connections` bounds the connections to each node of a cluster.
    `timeout_seconds` limits a single command, and also all commands of one read together. A look-up
    that takes longer than `slow_seconds` counts as slow. Reads bypass the cache while its look-ups
    stay slow.
    `relay_seconds` is the longest pause between two polls of the outbox.
    `concurrent_bypasses` is how many loads each process may run at once without the cache. Reads
    that wait longer than a second for their load to start are refused with `CacheBusy`.
    """

    valkey_url: str
    code_version: str
    is_cluster: bool = False
    max_connections: int = 32
    timeout_seconds: float = 0.1
    slow_seconds: float = 0.02
    namespace: str = "cache"
    ttl_seconds: float = 300
    memory_bytes: int = 64 * 1024 * 1024
    memory_ttl_seconds: float = 2
    relay_seconds: float = 0.5
    concurrent_bypasses: int = 5


@cache
def code_digest(*folders: Path) -> str:
    """Return a digest of the Python files in `folders`. It becomes part of every entry's key.

    During a rolling deployment, the old and the new release therefore never read each other's
    entries. Tags do not contain the version, so each release invalidates the entries of both.
    """
    digest = blake2b(digest_size=6)
    for folder in folders:
        for file in sorted(folder.rglob("*.py")):
            digest.update(str(file.relative_to(folder.parent)).encode())
            digest.update(file.read_bytes())
    return digest.hexdigest()
