"""How features declare their routes, and how a request finds its own among any number of them."""

from typing import NamedTuple

from fastapi import APIRouter
from starlette.routing import BaseRoute, Match
from starlette.types import Receive, Scope, Send

from app.infra.web.cacheable import is_public
from app.infra.web.query_parameters import StrictRoute


def feature_router(prefix: str, *, tag: str | None = None) -> APIRouter:
    """Build the router of one feature, which carries its whole prefix, such as `/v1/posts`.

    Its operation ids are the names of the endpoint functions; the last segment is its tag.
    """
    return APIRouter(
        prefix=prefix,
        tags=[tag or prefix.rpartition("/")[2]],
        route_class=StrictRoute,
        generate_unique_id_function=lambda route: route.name,
    )


class Near(NamedTuple):
    """The routes with the same first segments, and whether one of them is public."""

    router: APIRouter
    has_public: bool


class RouteTable:
    """Pure ASGI, between a router and its routes: tries those alone that can match.

    Routers try their routes one by one. Here they are looked up by their first two segments, such
    as `/v1/posts`, so that a request costs the same however many other features there are. The
    order of the routes keeps its meaning, and routes added later are seen.
    """

    def __init__(self, router: APIRouter) -> None:
        self._router = router
        self._all = Near(router, has_public=True)
        self._others = self._all
        self._table: dict[str, Near] = {}
        self._indexed = 0

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        await self.near(scope).router.app(scope, receive, send)

    def near(self, scope: Scope) -> Near:
        """Return the routes that a request may go to."""
        if self._indexed != len(self._router.routes):
            self._index()
        if scope["type"] != "http" or scope.get("root_path"):
            return self._all
        return self._table.get(_key(scope["path"]), self._others)

    def find(self, scope: Scope) -> tuple[BaseRoute | None, Scope]:
        """Return the route that a request goes to, and what that adds to its scope."""
        for route in self.near(scope).router.routes:
            match, found = route.matches(scope)
            if match is Match.FULL:
                return route, found
        return None, {}

    def _index(self) -> None:
        routes = list(self._router.routes)
        keys = {key for key in map(_key_of, routes) if key is not None}
        self._table = {
            key: self._near([route for route in routes if _key_of(route) in (key, None)])
            for key in keys
        }
        elsewhere = [route for route in routes if _key_of(route) is None]
        self._others = Near(self._router, any(map(is_public, elsewhere)))
        self._indexed = len(routes)

    def _near(self, routes: list[BaseRoute]) -> Near:
        router = APIRouter(routes=routes, redirect_slashes=self._router.redirect_slashes)
        return Near(router, any(is_public(route) for route in routes))


def _key(path: str) -> str:
    return "/".join(path.split("/", 3)[:3])


def _key_of(route: BaseRoute) -> str | None:
    """Return the first two segments of a route, or None when a request's may differ from them."""
    key = _key(getattr(route, "path_format", "{"))
    return None if "{" in key else key
