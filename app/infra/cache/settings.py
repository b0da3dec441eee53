"""The settings VALKEY_… and CACHE_…."""

from typing import Annotated, Self
from urllib.parse import urlsplit

from pydantic import Field, SecretStr, field_validator, model_validator

from app.infra.settings_base.section import Positive, Seconds, Section, SmallCount
from app.infra.settings_base.urls import valkey_url


class ValkeySettings(Section):
    """For a cluster, `url` is the address of any node.

    `max_connections` is how many connections a worker has to each node of a cluster.
    `timeout_seconds` limits one command, and all commands of one read together. If look-ups keep
    taking longer than `slow_seconds`, reads bypass the cache.
    """

    url: SecretStr = SecretStr("redis://127.0.0.1:6379/0")
    cluster: bool = False
    max_connections: SmallCount = 32
    timeout_seconds: Seconds = 0.1
    slow_seconds: Seconds = 0.02

    @field_validator("url")
    @classmethod
    def _convert_url(cls, url: SecretStr) -> SecretStr:
        return SecretStr(valkey_url(url.get_secret_value()))

    @model_validator(mode="after")
    def _check_cluster_database(self) -> Self:
        if self.cluster and urlsplit(self.url.get_secret_value()).path not in ("", "/", "/0"):
            raise ValueError("a cluster has database 0 alone: end VALKEY_URL with the port")
        return self


class CacheSettings(Section):
    """The cache in Valkey and in the memory of each process."""

    enabled: bool = True
    namespace: Annotated[str, Field(pattern=r"^[a-z0-9_-]{1,32}$")] = "cache"
    ttl_seconds: Annotated[float, Field(ge=1, le=86_400)] = 300
    missing_ttl_seconds: Annotated[float, Field(ge=1, le=3_600)] = 5
    memory_bytes: Positive = 64 * 1024 * 1024
    memory_ttl_seconds: Annotated[float, Field(ge=0, le=60)] = 2
    relay_seconds: Annotated[float, Field(ge=0.01, le=1)] = 0.5
