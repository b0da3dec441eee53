"""Gunicorn, its workers, and what they take from clients."""

from ipaddress import ip_network
from typing import Annotated

from pydantic import Field, field_validator

from app.infra.settings_base.section import Count, Seconds, Section, SmallCount, WholeSeconds
from app.infra.settings_base.urls import ListeningHost, RootPath

CLOSING_SECONDS = 5  # the last of the graceful timeout, for the lifespan to close everything


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
    threads: SmallCount = 8
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
