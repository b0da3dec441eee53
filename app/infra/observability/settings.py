"""The settings of logs, metrics and diagnostics."""

from ipaddress import ip_network
from typing import Annotated, Literal

from pydantic import Field, field_validator

from app.infra.settings_base.section import Positive, Seconds, Section, Switch


class LogSettings(Section):
    """The log on standard output. The format `auto` is JSON in production and text elsewhere."""

    level: Literal["DEBUG", "INFO", "WARNING", "ERROR"] = "INFO"
    format: Literal["auto", "json", "text"] = "auto"
    access: bool = True
    client_address: bool = True
    slow_seconds: Seconds = 1


class MetricsSettings(Section):
    """With a `port`, every client of that port sees the metrics. Otherwise only `networks` do."""

    enabled: bool = True
    port: Annotated[int, Field(ge=0, le=65_535)] = 0
    networks: str = "127.0.0.0/8,::1/128"
    server_timing: Switch = None

    @field_validator("networks")
    @classmethod
    def _are_networks(cls, networks: str) -> str:
        try:
            for network in networks.split(","):
                ip_network(network)
        except ValueError:
            raise ValueError("networks, separated by commas: 10.0.0.0/8,127.0.0.0/8") from None
        return networks


class DiagnosticsSettings(Section):
    """The limits above which the diagnostics report a mistake. Their names begin with GUARDS."""

    statement_budget: Positive = 20
    blocked_seconds: Seconds = 0.25
