"""The errors of a token endpoint, as OAuth2 client libraries read them (RFC 6749, section 5.2).

A client library takes any answer without an `error` for a token. So each problem of an endpoint
that is declared here has that member beside its own, and the status that the RFC asks for.
"""

from collections.abc import Callable
from typing import TypeVar

from starlette.types import Scope

EndpointT = TypeVar("EndpointT", bound=Callable[..., object])
MARK = "__oauth2__"

# Of a response with a token, and of its errors (RFC 6749, section 5.1).
NOT_STORED = {"Cache-Control": "no-store", "Pragma": "no-cache"}
STATUSES = {401: 400, 422: 400}  # the others stay: the RFC says nothing of them
ERRORS = {
    "invalid_credentials": "invalid_grant",
    "unauthenticated": "invalid_grant",
    "unsupported_grant_type": "unsupported_grant_type",
}


def token_endpoint(endpoint: EndpointT) -> EndpointT:
    """Declare that OAuth2 clients call an endpoint."""
    setattr(endpoint, MARK, True)
    return endpoint


def is_token_endpoint(scope: Scope) -> bool:
    """Whether a request goes to an endpoint that OAuth2 clients call."""
    return hasattr(scope.get("endpoint"), MARK)


def oauth2_error(code: str) -> str:
    """Return the error of the RFC for the code of a problem that the client has caused."""
    return ERRORS.get(code, "invalid_request")
