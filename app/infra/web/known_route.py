"""What the layers around the routes know about a route, read from it once."""

from collections.abc import Callable, Mapping
from dataclasses import dataclass

from fastapi.dependencies.models import Dependant
from fastapi.routing import RouteContext, iter_route_contexts
from starlette.routing import BaseRoute, Match
from starlette.types import Scope

from app.infra.web.cacheable import CachePolicy, policy_of, refuse_personal_input
from app.infra.web.query_parameters import query_parameters
from app.infra.web.rate_limited import Limits, declared_limits, default_limits
from app.infra.web.token_required import requires_access_token

UPLOAD_BYTES = 1024 * 1024  # what a route declares more than takes uploads


@dataclass(frozen=True, slots=True)
class KnownRoute:
    """A route.

    `matches` is that of Starlette. `template` is its path, such as `/v1/users/{user_id}`, and
    `literal` too, but None for a path with parameters and for a route without methods. `parameters`
    are its query parameters, each with whether it takes several values. `parses_body` is false for
    a route of FastAPI that has no parameter for the body, such as an upload.
    `requires_access_token` is that of its dependencies. `declared_limits` is None without
    `rate_limited`.
    """

    context: RouteContext
    matches: Callable[[Scope], tuple[Match, Scope]]
    template: str | None
    literal: str | None
    parameters: Mapping[str, bool]
    cache_policy: CachePolicy | None
    max_body_bytes: int | None
    parses_body: bool
    requires_access_token: bool
    declared_limits: Limits | None

    @property
    def takes_uploads(self) -> bool:
        return self.max_body_bytes is not None and self.max_body_bytes > UPLOAD_BYTES

    def takes(self, method: str) -> bool:
        methods = self.context.methods
        return methods is None or method in methods

    def limits(self, method: str) -> Limits:
        """Return the rate limits of a request. One that gets 405 has the default ones.

        Otherwise a GET of the path of the login, for example, would count as a login.
        """
        if self.declared_limits is None or not self.takes(method):
            return default_limits(method)
        return self.declared_limits


def known_routes(entry: BaseRoute) -> list[KnownRoute]:
    """Return the routes of an entry of a router, which is a route or an included router.

    Raises `TypeError` for a route that is declared cacheable and depends on the client.
    """
    return [_known_route(context) for context in iter_route_contexts([entry])]


def _known_route(context: RouteContext) -> KnownRoute:
    dependant: Dependant | None = getattr(context, "dependant", None)
    policy, template = policy_of(context.endpoint), context.path_format
    if policy is not None and dependant is not None:
        refuse_personal_input(f"GET {context.path_format}", dependant)
    return KnownRoute(
        context=context,
        matches=context.matches,
        template=template,
        literal=template if context.methods and template and "{" not in template else None,
        parameters=dict(query_parameters(dependant)) if dependant else {},
        cache_policy=policy,
        max_body_bytes=getattr(context, "max_body_size", None),
        parses_body=dependant is None or _has_body_parameter(dependant),
        requires_access_token=dependant is not None and requires_access_token(dependant),
        declared_limits=declared_limits(context.endpoint),
    )


def _has_body_parameter(dependant: Dependant) -> bool:
    return bool(dependant.body_params) or any(map(_has_body_parameter, dependant.dependencies))
