"""Errors of a token endpoint in the form that OAuth2 clients expect (RFC 6749, section 5.2).

An OAuth2 client treats a response without `error` as a token. So each problem of a token endpoint
has that member too, and the status that the RFC prescribes.
"""

from collections.abc import Callable
from typing import TypeVar

from starlette.types import Scope

EndpointT = TypeVar("EndpointT", bound=Callable[..., object])
_token_endpoints: list[object] = []

# Headers of a token, and of its errors (RFC 6749, section 5.1).
NOT_STORED = {"Cache-Control": "no-store", "Pragma": "no-cache"}
STATUSES = {401: 400, 422: 400}  # the RFC prescribes no other status
ERRORS = {
    "invalid_credentials": "invalid_grant",
    "unauthenticated": "invalid_grant",
    "unsupported_grant_type": "unsupported_grant_type",
}


def token_endpoint(endpoint: EndpointT) -> EndpointT:
    """Mark an endpoint as a token endpoint for OAuth2 clients."""
    _token_endpoints.append(endpoint)
    return endpoint


def is_token_endpoint(scope: Scope) -> bool:
    """Return whether the request was routed to a token endpoint."""
    return scope.get("endpoint") in _token_endpoints


def oauth2_error(code: str) -> str:
    """Return the `error` of the RFC for the code of a problem."""
    return ERRORS.get(code, "invalid_request")
