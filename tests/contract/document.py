"""Reads the OpenAPI document, for the tests that walk through it."""

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
        """What it takes in the path, the query and the headers."""
        parameters: list[Json] = self.definition.get("parameters", [])
        return parameters

    @property
    def media_type(self) -> str | None:
        """Of the body, if it takes one."""
        return next(iter(self._content), None)

    @property
    def body(self) -> Json:
        """The schema of the body; an empty one if it takes none."""
        content: Json = next(iter(self._content.values()), {})
        return self.resolve(content.get("schema", {}))

    @property
    def examples(self) -> list[Json]:
        """The bodies that the document shows."""
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
        """What it answers, by status."""
        answers: Json = self.definition["responses"]
        return answers

    def resolve(self, schema: Json) -> Json:
        """Follow a reference to where the schema is."""
        return self.schemas[schema["$ref"].rpartition("/")[2]] if "$ref" in schema else schema

    def url(self, ids: Mapping[str, object]) -> str:
        """Fill in the path."""
        return self.path.format_map(ids)

    @property
    def _content(self) -> Json:
        content: Json = self.definition.get("requestBody", {}).get("content", {})
        return content


# Their answers go on until the client leaves: tests/features/board/test_board.py asks for them.
ENDLESS = {"GET /board/events"}

# Not started: for its routes and its document alone.
APPLICATION = create_app(Settings.model_validate({"docs": {"enabled": True}}))
DOCUMENT: Json = APPLICATION.openapi()
OPERATIONS = [
    Operation(method.upper(), path, definition, DOCUMENT["components"]["schemas"])
    for path, methods in DOCUMENT["paths"].items()
    for method, definition in methods.items()
]


def api_routes(app: FastAPI) -> Iterator[RouteContext]:
    """Yield the routes that are functions, in the document or not."""
    return (
        context
        for context in iter_route_contexts(app.router.routes)
        if isinstance(context.original_route, APIRoute)
    )
