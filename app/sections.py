"""Every knob of the service: one frozen section a concern, the defaults, and what is refused.

`app/settings.py` puts them together and reads their values.
"""

import re
from ipaddress import ip_network
from typing import Annotated, Literal, Self
from urllib.parse import urlsplit

from pydantic import BaseModel, ConfigDict, Field, SecretStr, field_validator, model_validator

from app.addresses import ListeningHost, RootPath, postgresql_url, valkey_url

DEVELOPMENT_SECRET = "a-secret-for-development-only-never-in-production"
MINIMUM_SECRET_BYTES = 32  # RFC 7518 §3.2: an HS256 key is at least as long as its digest
CLOSING_SECONDS = 5  # the last of the graceful timeout, for the lifespan to close everything

HOST_PATTERN = re.compile(r"(\*\.)?[A-Za-z0-9_-]+(\.[A-Za-z0-9_-]+)*|\[[0-9A-Fa-f:.]+\]")
HEADER_NAME = re.compile(r"[A-Za-z0-9-]+")
ORIGIN = re.compile(r"https?://[a-z0-9.-]+(:\d+)?")

# Bounded, so that a digit too many is refused here and not by a library while it serves.
Positive = Annotated[int, Field(gt=0, le=10**12)]
Few = Annotated[int, Field(gt=0, le=10_000)]
WholeSeconds = Annotated[int, Field(gt=0, le=366 * 86_400)]
Count = Annotated[int, Field(ge=0, le=10**12)]
Seconds = Annotated[float, Field(ge=0.001, le=86_400)]


class Section(BaseModel):
    """A frozen group of settings; its field name is the prefix of their names."""

    model_config = ConfigDict(frozen=True, hide_input_in_errors=True, validate_default=True)


class DatabaseSettings(Section):
    """PostgreSQL, and how many connections each worker process holds to it."""

    url: SecretStr = SecretStr("postgresql://app:app@127.0.0.1:5432/app")
    pooler: bool = False
    replica_url: SecretStr | None = None
    replica_lag_seconds: Annotated[float, Field(ge=2, le=3_600)] = 5
    pool_size: Few = 5
    pool_timeout_seconds: Seconds = 1
    pool_recycle_seconds: WholeSeconds = 1800
    connect_timeout_seconds: Seconds = 3
    command_timeout_seconds: Seconds = 6
    statement_timeout_seconds: Seconds = 5
    lock_timeout_seconds: Seconds = 2
    idle_in_transaction_timeout_seconds: Seconds = 10

    @field_validator("url", "replica_url")
    @classmethod
    def _for_asyncpg(cls, url: SecretStr | None) -> SecretStr | None:
        return url and SecretStr(postgresql_url(url.get_secret_value()))


class ValkeySettings(Section):
    """Valkey, or anything that speaks its protocol. Of a cluster, `url` is any node's.

    `timeout_seconds` limits one command, and all commands of one read together. A look-up that
    takes longer than `slow_seconds` is slow: reads go past a cache whose look-ups stay slow.
    """

    url: SecretStr = SecretStr("redis://127.0.0.1:6379/0")
    cluster: bool = False
    max_connections: Few = 32
    timeout_seconds: Seconds = 0.1
    slow_seconds: Seconds = 0.02

    @field_validator("url")
    @classmethod
    def _for_redis_py(cls, url: SecretStr) -> SecretStr:
        return SecretStr(valkey_url(url.get_secret_value()))

    @model_validator(mode="after")
    def _has_no_other_database(self) -> Self:
        if self.cluster and urlsplit(self.url.get_secret_value()).path not in ("", "/", "/0"):
            raise ValueError("a cluster has database 0 alone: VALKEY_URL ends with its port")
        return self


class CacheSettings(Section):
    """The cache over Valkey and in process. A stale answer lives no longer than these allow."""

    enabled: bool = True
    namespace: Annotated[str, Field(pattern=r"^[a-z0-9_-]{1,32}$")] = "cache"
    ttl_seconds: Annotated[float, Field(ge=1, le=86_400)] = 300
    missing_ttl_seconds: Annotated[float, Field(ge=1, le=3_600)] = 5
    memory_bytes: Positive = 64 * 1024 * 1024
    memory_ttl_seconds: Annotated[float, Field(ge=0, le=60)] = 2
    relay_seconds: Annotated[float, Field(ge=0.01, le=1)] = 0.2


class AuthSettings(Section):
    """Tokens and passwords. `secret` signs the access tokens of every worker and replica."""

    secret: SecretStr = SecretStr(DEVELOPMENT_SECRET)
    issuer: str = "fastapi-reference-service"
    audience: str = "fastapi-reference-service"
    access_token_seconds: Annotated[int, Field(gt=0, le=86_400)] = 900
    refresh_token_seconds: Annotated[int, Field(gt=0, le=366 * 86_400)] = 30 * 86_400
    hashing_threads: Few = 2
    hashing_queue: Positive = 32
    hashing_queue_seconds: Seconds = 0.5
    argon2_memory_kib: Annotated[int, Field(ge=32, le=2**32 - 1)] = 65_536
    argon2_time_cost: Few = 3


class ServerSettings(Section):
    """Gunicorn and its Uvicorn workers. `threads` run what blocks, in each worker.

    Told to end, the service is unready and accepts for `drain_seconds`; what still runs is cut off
    CLOSING_SECONDS before the graceful timeout. 0 for `max_requests` means that workers stay.
    `root_path` is the prefix that the proxy before it strips from requests.
    `header_` and `body_` are what a client may send, and how long it may take for it; `write_` is
    how long it may leave unread what it is sent.
    """

    host: ListeningHost = "127.0.0.1"
    port: Annotated[int, Field(ge=0, le=65_535)] = 8000
    root_path: RootPath = ""
    trusted_proxies: str = "127.0.0.1,::1"
    threads: Few = 8
    keep_alive_seconds: WholeSeconds = 75
    drain_seconds: Annotated[float, Field(ge=0, le=3_600)] = 8
    graceful_timeout_seconds: Annotated[int, Field(ge=15, le=86_400)] = 30
    max_requests: Count = 0
    max_requests_jitter: Count = 0
    header_seconds: Seconds = 5
    header_bytes: Annotated[int, Field(ge=1_024, le=1_048_576)] = 32_768
    header_fields: Annotated[int, Field(ge=16, le=10_000)] = 100
    body_seconds: Seconds = 20
    write_seconds: Seconds = 30
    hsts_seconds: Count = 0

    @field_validator("trusted_proxies")
    @classmethod
    def _are_exact(cls, proxies: str) -> str:
        try:
            everybody = any(ip_network(proxy).prefixlen == 0 for proxy in proxies.split(","))
        except ValueError:
            everybody = True
        if everybody:
            raise ValueError(
                "addresses or networks of the load balancers alone, separated by commas "
                "(10.0.0.5,10.1.0.0/16): whoever is trusted says what a client's address is"
            )
        return proxies


class LimitsSettings(Section):
    """What a worker takes on at a time, how large a body is, and under which names it answers."""

    body_bytes: Positive = 1_048_576
    body_values: Positive = 1_000
    running: Positive = 64
    queued: Count = 64
    queue_seconds: Seconds = 0.1
    streams: Positive = 256
    request_seconds: Seconds = 10
    hosts: str = ""

    @field_validator("hosts")
    @classmethod
    def _are_names(cls, hosts: str) -> str:
        if hosts and not all(map(HOST_PATTERN.fullmatch, hosts.split(","))):
            raise ValueError("host names without ports, by commas: example.com,*.example.com")
        return hosts.lower()


class CorsSettings(Section):
    """Which origins' scripts may read answers: none, `*` for all, or a list separated by commas.

    `headers` are those that scripts may send beside what the API itself uses.
    """

    origins: str = ""
    headers: Annotated[str, Field(max_length=500)] = ""

    @field_validator("origins")
    @classmethod
    def _are_origins(cls, origins: str) -> str:
        if origins not in ("", "*") and not all(map(ORIGIN.fullmatch, origins.split(","))):
            raise ValueError("origins without a path, separated by commas: https://example.com")
        return origins

    @field_validator("headers")
    @classmethod
    def _are_names(cls, headers: str) -> str:
        if headers and not all(map(HEADER_NAME.fullmatch, headers.split(","))):
            raise ValueError("names of headers, separated by commas, and not *: X-Client-Version")
        return headers


class DocsSettings(Section):
    """The interactive documentation: in development when not set."""

    enabled: bool | None = None


class LogSettings(Section):
    """What is written to standard output. `auto` is JSON in production, else text."""

    level: Literal["DEBUG", "INFO", "WARNING", "ERROR"] = "INFO"
    format: Literal["auto", "json", "text"] = "auto"
    access: bool = True
    client_address: bool = True
    slow_seconds: Seconds = 1


class MetricsSettings(Section):
    """What is told of the service, and to whom.

    With a port of their own the metrics are there alone; else they are for `networks` alone.
    """

    enabled: bool = True
    port: Annotated[int, Field(ge=0, le=65_535)] = 0
    networks: str = "127.0.0.0/8,::1/128"
    server_timing: bool | None = None

    @field_validator("networks")
    @classmethod
    def _are_networks(cls, networks: str) -> str:
        try:
            for network in networks.split(","):
                ip_network(network)
        except ValueError:
            raise ValueError("networks, separated by commas: 10.0.0.0/8,127.0.0.0/8") from None
        return networks


class BoardSettings(Section):
    """The live board at `/`: in development when not set, for whoever may see the metrics."""

    enabled: bool | None = None


class GuardsSettings(Section):
    """When the guards speak up."""

    statement_budget: Positive = 20
    blocked_seconds: Seconds = 0.25
