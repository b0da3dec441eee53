"""What a call of another service raises."""

from typing import Literal

from app.errors import InvalidRequest, Unavailable

Reason = Literal[
    "not_public",  # the address of a server in our own network, from a user
    "unresolved",  # no server has this name
    "unreachable",  # no connection
    "broken",  # the connection ended early, or the response is not HTTP
    "timeout",
    "unhealthy",  # 5xx, or 429
    "refused",  # another 4xx
    "redirect",
    "too_large",
    "invalid",  # compressed, or not what the caller expects
    "skipped",  # the breaker is open
]


class UpstreamFailed(Unavailable):
    """Another service did not answer as it should. If nobody handles it, the client gets 503.

    `upstream_status` is the status of the response, if there was one. `wait_seconds` is how long
    the service asks to be left alone.
    """

    def __init__(
        self,
        name: str,
        reason: Reason,
        upstream_status: int | None = None,
        wait_seconds: float = 0,
    ) -> None:
        super().__init__("Another service, which this request needs, failed.")
        self.name = name
        self.reason = reason
        self.upstream_status = upstream_status
        self.wait_seconds = wait_seconds

    def __str__(self) -> str:
        """Return a sentence for the log. Clients get `detail`."""
        status = f" with status {self.upstream_status}" if self.upstream_status else ""
        return f"the upstream {self.name} failed ({self.reason}{status})"


class UrlRefused(InvalidRequest):
    """The URL of a user does not lead to a public server."""

    code = "url_refused"

    def __init__(self) -> None:
        super().__init__("The URL must lead to a public web server.")
