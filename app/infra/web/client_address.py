"""Names the client of a request for the rate limits: a user, or an address.

The names are keys of counters, and prove nothing else.
"""

from functools import lru_cache
from ipaddress import IPv6Address, IPv6Network, ip_address

from starlette.types import Scope

from app.errors import Unauthenticated
from app.infra.resources import ProcessResources
from app.infra.security.access_tokens import AccessTokens

PREFIX_BITS = 64  # what a provider gives to one customer at least
UNKNOWN = "unknown"
LONGEST = 100  # characters of an address with a zone and a port


def address_of(scope: Scope) -> str:
    """Return the address of the client, or its network for IPv6.

    Servers that listen on a Unix socket do not know the address. All their clients count as one.
    """
    client = scope.get("client")
    # A proxy that is trusted may report any text. A long one is not kept in the cache.
    return _network_of(client[0]) if client and len(client[0]) <= LONGEST else UNKNOWN


def without_port(address: str) -> str:
    """Remove the port that some proxies report: `192.0.2.1:443`, `[2001:db8::1]:443`."""
    if address.startswith("["):
        return address[1:].partition("]")[0]
    return address.partition(":")[0] if address.count(":") == 1 else address


def user_of(scope: Scope, tokens: AccessTokens) -> str | None:
    """Return `user:` and the id in the access token, or None without a valid token.

    The signature and the expiry are verified, because otherwise a client could use up the quota of
    another user. The database is not asked, so this is no authentication: the token may have been
    revoked, and its account disabled or deleted. Such a request counts for that user too, and the
    route then refuses it. All tokens of a user share one key, whenever and wherever they were
    issued.
    """
    token = bearer_token(scope)
    if token is None:
        return None
    try:
        return f"user:{tokens.verify(token).user_id}"
    except Unauthenticated:
        return None


def bearer_token(scope: Scope) -> str | None:
    """Return what the client sent as its access token, which may be anything."""
    for name, value in scope["headers"]:
        if name == b"authorization":
            scheme, _, token = value.partition(b" ")
            return token.strip().decode("latin-1") if scheme.lower() == b"bearer" else None
    return None


def client_of(scope: Scope) -> str:
    """Return the user, or the address if there is no valid token."""
    resources: ProcessResources = scope["app"].state.resources
    return user_of(scope, resources.access_tokens) or address_of(scope)


@lru_cache(maxsize=10_000)
def _network_of(text: str) -> str:
    try:
        address = ip_address(without_port(text))
    except ValueError:
        return UNKNOWN
    if not isinstance(address, IPv6Address):
        return str(address)
    if address.ipv4_mapped is not None:  # an IPv4 client of a socket for both protocols
        return str(address.ipv4_mapped)
    return str(IPv6Network((int(address), PREFIX_BITS), strict=False))
