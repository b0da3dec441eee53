"""The settings HTTP_CLIENT_…: calls of other services."""

import re
from typing import Annotated

from pydantic import Field, field_validator

from app.infra.settings_base.section import Positive, Seconds, Section, SmallCount

PORTS = re.compile(r"\d{1,5}(,\d{1,5})*")
MAX_PORT = 65_535


class HttpClientSettings(Section):
    """Limits of each process. `total_seconds` includes all retries of a call.

    `public_ports` are the ports that addresses from users may name.
    """

    connect_seconds: Seconds = 1
    total_seconds: Seconds = 5
    retries: Annotated[int, Field(ge=0, le=10)] = 2
    connections: SmallCount = 100
    connections_per_host: SmallCount = 16
    body_bytes: Positive = 1_048_576
    public_ports: str = "80,443"

    @field_validator("public_ports")
    @classmethod
    def _check_ports(cls, ports: str) -> str:
        if not PORTS.fullmatch(ports) or not all(
            0 < int(port) <= MAX_PORT for port in ports.split(",")
        ):
            raise ValueError("ports from 1 to 65535, separated by commas: 80,443")
        return ports
