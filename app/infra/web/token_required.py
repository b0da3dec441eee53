"""Declares which dependencies refuse a request without a valid access token.

Of such a request, the body is not read: the routes would refuse it anyway.
"""

from collections.abc import Callable
from typing import TypeVar

from fastapi.dependencies.models import Dependant

DependencyT = TypeVar("DependencyT", bound=Callable[..., object])
NO_TOKEN = "This call needs an access token."
REQUIRED = "__access_token_required__"  # the attribute of a dependency


def access_token_required(dependency: DependencyT) -> DependencyT:
    """Declare that a dependency raises `Unauthenticated` without a valid access token."""
    setattr(dependency, REQUIRED, True)
    return dependency


def requires_access_token(dependant: Dependant) -> bool:
    """Return whether a route, or a dependency, has such a dependency."""
    is_required: bool = getattr(dependant.call, REQUIRED, False)
    return is_required or any(map(requires_access_token, dependant.dependencies))
