"""The settings SERVER_…, and the number of workers."""

import re
from ipaddress import ip_address, ip_network
from typing import Annotated

from pydantic import AfterValidator, BeforeValidator, Field, field_validator

from app.infra.settings_base.section import Count, Seconds, Section, SmallCount, WholeSeconds

CLOSING_SECONDS = 5  # the end of the graceful timeout, in which the lifespan closes everything
MAX_HOPS = 9
MAX_ROOT_PATH_LENGTH = 100  # it is a part of response headers
HOST_NAME = re.compile(r"[a-z0-9_-]{1,63}(\.[a-z0-9_-]{1,63})*", re.IGNORECASE)
ROOT_PATH = re.compile(r"(/(?!\.{1,2}(/|$))[A-Za-z0-9._~-]+)*")


def _workers(value: object) -> object:
    text = str(value).strip().lower()
    if value is None or text == "auto":
        return None
    if not (text.isascii() and text.isdecimal()):
        raise ValueError("a whole number from 1 to 256, or auto for one worker a core")
    return text


def _is_number(text: str) -> bool:
    return text.isascii() and text.isdecimal() and len(text) < 10


def _listening_host(text: str) -> str:
    host = text.strip().removeprefix("[").removesuffix("]")
    try:
        is_host = bool(ip_address(host) if ":" in host else HOST_NAME.fullmatch(host))
    except ValueError:
        is_host = False
    if not is_host:
        raise ValueError("an address of this machine, without a port: 0.0.0.0 or ::1")
    return host


def _root_path(text: str) -> str:
    if not ROOT_PATH.fullmatch(text) or len(text) > MAX_ROOT_PATH_LENGTH:
        raise ValueError("a short path that starts with a slash and does not end with one: /api")
    return text


# None means one worker for each core.
Workers = Annotated[Annotated[int, Field(gt=0, le=256)] | None, BeforeValidator(_workers)]
ListeningHost = Annotated[str, AfterValidator(_listening_host)]
RootPath = Annotated[str, AfterValidator(_root_path)]


class ServerSettings(Section):
    """Gunicorn and its Uvicorn workers. .env.example describes each setting."""

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
    def _check_proxies(cls, proxies: str) -> str:
        if _is_number(proxies):
            everybody = not 1 <= int(proxies) <= MAX_HOPS
        else:
            try:
                everybody = any(ip_network(proxy).prefixlen == 0 for proxy in proxies.split(","))
            except ValueError:
                everybody = True
        if everybody:
            raise ValueError(
                "addresses or networks of the load balancers alone, separated by commas "
                "(10.0.0.5,10.1.0.0/16), or the number of load balancers that every request "
                "passes (1): any trusted proxy can set the client address"
            )
        return proxies

    @property
    def completion_seconds(self) -> float:
        """How long responses may go on after a worker has stopped accepting connections."""
        return self.graceful_timeout_seconds - CLOSING_SECONDS - self.drain_seconds

    @property
    def trusted_hops(self) -> int:
        """The number of proxies in front of the service, or 0 if their addresses are known."""
        return int(self.trusted_proxies) if _is_number(self.trusted_proxies) else 0
