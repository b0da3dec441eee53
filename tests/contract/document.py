"""The routes of the service and its OpenAPI document, for the tests that walk through them."""

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Any

from fastapi import FastAPI
from fastapi.routing import APIRoute, RouteContext, iter_route_contexts

from app.main import create_app
from app.settings import Settings

Json = dict[str, Any]


@dataclass(frozen=True)
class Operation:
    """One method of one path."""

    method: str
    path: str
    definition: Json
    schemas: Json

    def __str__(self) -> str:
        return f"{self.method} {self.path}"

    @property
    def name(self) -> str:
        name: str = self.definition["operationId"]
        return name

    @property
    def parameters(self) -> list[Json]:
        """The parameters in the path, the query and the headers."""
        parameters: list[Json] = self.definition.get("parameters", [])
        return parameters

    @property
    def media_type(self) -> str | None:
        """The media type of the body, or None if there is no body."""
        return next(iter(self._content), None)

    @property
    def body(self) -> Json:
        """The schema of the body, or an empty one if there is no body."""
        content: Json = next(iter(self._content.values()), {})
        return self.resolve(content.get("schema", {}))

    @property
    def examples(self) -> list[Json]:
        """The example bodies in the document."""
        shown = [
            example["value"]
            for content in self._content.values()
            for example in content.get("examples", {}).values()
        ]
        of_schema: list[Json] = self.body.get("examples", [])
        return shown + of_schema

    @property
    def needs_account(self) -> bool:
        return "security" in self.definition

    @property
    def answers(self) -> Json:
        """The documented responses, by status."""
        answers: Json = self.definition["responses"]
        return answers

    def resolve(self, schema: Json) -> Json:
        """Return the schema that a reference leads to."""
        return self.schemas[schema["$ref"].rpartition("/")[2]] if "$ref" in schema else schema

    def url(self, ids: Mapping[str, object]) -> str:
        """Return the path with these ids."""
        return self.path.format_map(ids)

    @property
    def _content(self) -> Json:
        content: Json = self.definition.get("requestBody", {}).get("content", {})
        return content


# Its lifespan is not run: the tests read its routes and its document.
APPLICATION = create_app(Settings.model_validate({"docs": {"enabled": True}}))
DOCUMENT: Json = APPLICATION.openapi()
OPERATIONS = [
    Operation(method.upper(), path, definition, DOCUMENT["components"]["schemas"])
    for path, methods in DOCUMENT["paths"].items()
    for method, definition in methods.items()
]


BY_ROUTE = {str(operation): operation for operation in OPERATIONS}


def api_routes(app: FastAPI) -> Iterator[RouteContext]:
    """Yield the routes that are functions, in the document or not."""
    return (
        context
        for context in iter_route_contexts(app.router.routes)
        if isinstance(context.original_route, APIRoute)
    )


def methods_by_path(app: FastAPI) -> dict[str, set[str]]:
    """Return the methods of every path, those of routes that are not functions too."""
    found: dict[str, set[str]] = {}
    for context in iter_route_contexts(app.router.routes):
        if context.path is not None and context.methods:
            found.setdefault(context.path, set()).update(context.methods)
    return found


METHODS_BY_PATH = methods_by_path(APPLICATION)
# All functions by method and path, such as "GET /v1/users/me".
ROUTES = {
    f"{method} {route.path}": route
    for route in api_routes(APPLICATION)
    for method in route.methods or ()
}
