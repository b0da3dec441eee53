"""Finds the route of a request, for the layers around the routes and for the framework's router.

FastAPI matches routes one by one, and matches those of an included router twice. `RouteTable` looks
routes up by the first two segments of their paths, so that the routes of other features cost a
request nothing. The first route whose path has no parameters and is that of the request decides
about the method: PATCH /…/export gets 405, and does not ask for something with the id "export".
Otherwise requests are answered as without the table, only faster.
"""

from dataclasses import dataclass
from typing import NamedTuple

from fastapi import APIRouter, FastAPI, HTTPException
from fastapi.routing import iter_route_contexts
from starlette.routing import BaseRoute, Match
from starlette.types import Receive, Scope, Send

from app.infra.rate_limits.limit import Limit
from app.infra.web.known_route import KnownRoute, known_routes
from app.infra.web.query_parameters import refuse_repeated
from app.infra.web.rate_limited import Limits, default_limits, limits_by_name
from app.infra.web.request_retry import RequestRetryMiddleware

FOUND = "app.route_table.found"  # the key of the scope


class _Found(NamedTuple):
    """The route of a request. It is valid only while the scope asks the same question."""

    question: tuple[object, ...]
    route: KnownRoute | None
    added: Scope


@dataclass(frozen=True, slots=True)
class Candidates:
    """The routes that a request may go to, and the framework's router over just these."""

    routes: list[KnownRoute]
    router: APIRouter


class RouteTable:
    """Pure ASGI, between a router and its routes. Routes that are added later are found too."""

    def __init__(self, router: APIRouter) -> None:
        self._router = router
        self._by_key: dict[str, Candidates] = {}
        self._all = self._others = Candidates([], router)
        self._limits_of_cacheable: dict[str | None, Limits] = {}
        self._limits: dict[str, Limit] = {}
        self._methods: dict[str, set[str]] = {}  # of the paths without parameters
        self._indexed = 0

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "http":
            await self._router.app(scope, receive, send)
            return
        candidates = self._candidates(scope)
        is_refused = scope["method"] not in self._methods.get(_path(scope), (scope["method"],))
        if scope["query_string"] or is_refused:
            route, _ = self.find(scope)
            if is_refused and route is not None and not route.takes(scope["method"]):
                raise HTTPException(405)
            if route is not None:
                refuse_repeated(scope, route.parameters)
        scope["router"] = self._router  # `url_for` must know the routes of all features
        await candidates.router.app(scope, receive, send)

    def find(self, scope: Scope) -> tuple[KnownRoute | None, Scope]:
        """Return the route of a request, and what it adds to the scope.

        A route with the path of the request and without its method is the last choice, unless its
        path has no parameters. Several layers ask, so the answer is kept in the scope.
        """
        question = (self, scope["method"], scope["path"], scope.get("root_path"))
        kept: _Found | None = scope.get(FOUND)
        if kept is None or kept.question != question:
            kept = scope[FOUND] = _Found(question, *self._find(scope))
        return kept.route, kept.added

    def _find(self, scope: Scope) -> tuple[KnownRoute | None, Scope]:
        other_method: tuple[KnownRoute, Scope] | None = None
        path = None if scope.get("root_path") else _path(scope)
        for route in self._candidates(scope).routes:
            if path is not None and route.literal not in (None, path):
                continue  # it would not match, and asking it takes much longer
            match, found = route.matches(scope)
            is_decided = other_method is not None and other_method[0].literal is not None
            if match is Match.FULL and (route.literal is not None or not is_decided):
                return route, found
            if match is Match.PARTIAL:
                other_method = other_method or (route, found)
        if self._index_added_routes():
            return self._find(scope)
        return other_method or (None, {})

    def template(self, method: str, path: str) -> str | None:
        """Return the path template of the route that has a path, in any method."""
        route, _ = self.find({"type": "http", "method": method, "path": path, "headers": []})
        return None if route is None else route.template

    def find_cacheable(self, scope: Scope) -> KnownRoute | None:
        """Return the route of a GET request if it is `cacheable`."""
        route, _ = self.find(scope)
        return route if route is not None and route.cache_policy else None

    def limits_of_cacheable(self, template: str) -> Limits:
        """Return the rate limits of the cacheable route with this template.

        An instance with other routes may have put the response into Valkey. Then the route may not
        exist here, and the default limits apply.
        """
        limits = self._limits_of_cacheable.get(template)
        return default_limits("GET") if limits is None else limits

    @property
    def limits(self) -> dict[str, Limit]:
        """The default rate limits and those that routes declare, by name."""
        return self._limits

    def methods(self, scope: Scope) -> set[str]:
        """Return the methods of all routes that have the path of a request."""
        self._index_added_routes()
        route, _ = self.find(scope)
        if route is not None and route.literal is not None:
            return self._methods[_path(scope)]
        matching = [
            route.context.methods or set()
            for route in self._candidates(scope).routes
            if route.matches(scope)[0] is not Match.NONE
        ]
        return {method for methods in matching for method in methods}

    def _candidates(self, scope: Scope) -> Candidates:
        if self._indexed != len(self._router.routes):
            self.index()
        if scope.get("root_path"):
            return self._all
        return self._by_key.get(_key(_path(scope)), self._others)

    def _index_added_routes(self) -> bool:
        """Index again if a router that was already included has more routes now.

        This looks at every route, so only a request that no known route answers pays for it.
        """
        count = sum(1 for _ in iter_route_contexts(self._router.routes))
        if count == len(self._all.routes):
            return False
        self.index()
        return True

    def index(self) -> None:
        """Group the routes by two segments. An included router may be in several groups.

        It raises `TypeError` for a route that is declared cacheable and depends on the client, and
        for two rate limits with one name.
        """
        entries = [(entry, known_routes(entry)) for entry in self._router.routes]
        keys = {_key_of(route) for _, routes in entries for route in routes}
        self._by_key = {key: self._group(entries, key) for key in keys if key is not None}
        self._others = self._group(entries, None)
        self._all = Candidates([route for _, some in entries for route in some], self._router)
        cacheable = [route for route in self._all.routes if route.cache_policy]
        self._limits_of_cacheable = {route.template: route.limits("GET") for route in cacheable}
        self._limits = limits_by_name(route.declared_limits or () for route in self._all.routes)
        self._methods = _methods_by_path(self._all.routes)
        self._indexed = len(entries)

    def _group(
        self, entries: list[tuple[BaseRoute, list[KnownRoute]]], key: str | None
    ) -> Candidates:
        kept = [
            (entry, [route for route in routes if _key_of(route) in (key, None)])
            for entry, routes in entries
        ]
        routes = [route for _, some in kept for route in some]
        # Unmatched requests go to the full router, for its 404, redirects and front ends.
        router = APIRouter(routes=[entry for entry, some in kept if some], default=self._router.app)
        router.redirect_slashes = False
        return Candidates(routes, router if key else self._router)


def use_route_table(app: FastAPI) -> None:
    """Look up the routes of `app` in a table, and retry requests between the table and `app`."""
    table = RouteTable(app.router)
    app.state.route_table = table
    app.router.middleware_stack = RequestRetryMiddleware(table)


def route_table_of(scope: Scope) -> RouteTable:
    """Return the table of the application that a request was sent to."""
    table: RouteTable = scope["app"].state.route_table
    return table


def _methods_by_path(routes: list[KnownRoute]) -> dict[str, set[str]]:
    """Return the methods of each path without parameters."""
    methods: dict[str, set[str]] = {}
    for route in routes:
        if route.literal is not None:
            methods.setdefault(route.literal, set()).update(route.context.methods or ())
    return methods


def _path(scope: Scope) -> str:
    """Return the path as routes match it: `$` also matches before a line feed at the end."""
    path: str = scope["path"]
    return path.removeprefix(scope.get("root_path", "")).removesuffix("\n")


def _key(path: str) -> str:
    return "/".join(path.split("/", 3)[:3])


def _key_of(route: KnownRoute) -> str | None:
    """Return the first two segments, or None if they differ between the requests of a route."""
    key = _key("{" if route.template is None else route.template)
    return None if "{" in key else key
