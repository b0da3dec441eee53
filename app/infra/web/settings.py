"""The settings LIMITS_…, CORS_… and DOCS_…."""

import re
from typing import Annotated

from pydantic import Field, field_validator

from app.infra.settings_base.section import Count, Positive, Seconds, Section, Switch

HOST_PATTERN = re.compile(r"(\*\.)?[A-Za-z0-9_-]+(\.[A-Za-z0-9_-]+)*|\[[0-9A-Fa-f:.]+\]")
HEADER_NAME = re.compile(r"[A-Za-z0-9-]+")
ORIGIN = re.compile(r"https?://[a-z0-9.-]+(:\d+)?")


class LimitsSettings(Section):
    """Limits of each worker. `hosts` are the host names that it answers to; empty means all."""

    body_bytes: Positive = 1_048_576
    body_values: Positive = 1_000
    uploads: Positive = 24
    upload_bytes: Positive = 33_554_432
    running: Positive = 64
    queued: Count = 64
    queue_seconds: Seconds = 0.1
    streams: Positive = 256
    exports: Positive = 2
    downloads: Positive = 128
    downloads_per_client: Positive = 8
    request_seconds: Seconds = 10
    hosts: str = ""

    @field_validator("hosts")
    @classmethod
    def _check_hosts(cls, hosts: str) -> str:
        if hosts and not all(map(HOST_PATTERN.fullmatch, hosts.split(","))):
            raise ValueError("names without ports, separated by commas: example.com,*.example.com")
        return hosts.lower()


class CorsSettings(Section):
    """Origins that may read responses: empty (none), `*`, or a list.

    `headers` are request headers that scripts may send, besides those that the API uses itself.
    """

    origins: str = ""
    headers: Annotated[str, Field(max_length=500)] = ""

    @field_validator("origins")
    @classmethod
    def _check_origins(cls, origins: str) -> str:
        if origins not in ("", "*") and not all(map(ORIGIN.fullmatch, origins.split(","))):
            raise ValueError("origins without a path, separated by commas: https://example.com")
        return origins

    @field_validator("headers")
    @classmethod
    def _check_headers(cls, headers: str) -> str:
        if headers and not all(map(HEADER_NAME.fullmatch, headers.split(","))):
            raise ValueError("names of headers, separated by commas, and not *: X-Client-Version")
        return headers


class DocsSettings(Section):
    """The interactive documentation. If not set, it is on in development and off in production."""

    enabled: Switch = None
