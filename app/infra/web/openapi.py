"""The OpenAPI document, with the errors that routes really have, and the page that shows it.

The page and its scripts come from this process, so they work without the internet.
"""

import asyncio
from collections.abc import Callable
from typing import Any, Literal

from fastapi import FastAPI, Request
from fastapi.openapi.docs import get_swagger_ui_html
from pydantic import BaseModel
from starlette.responses import HTMLResponse, JSONResponse

from app.infra.validation.fields import MAX_WHOLE
from app.infra.web.exports import FORMATS
from app.infra.web.problems import MEDIA_TYPE, title
from app.infra.web.response_headers import PAGE_HEADERS, PAGE_POLICY
from app.infra.web.static_files import RangeStaticFiles

Responses = dict[int | str, dict[str, Any]]
SCHEMA_PATH = "#/components/schemas/"
# Pydantic leaves its own names for limits behind a validator: `Annotated[Whole, Field(ge=0)]`.
LIMITS: dict[str, tuple[str, Callable[..., float]]] = {
    "ge": ("minimum", max),
    "gt": ("exclusiveMinimum", max),
    "le": ("maximum", min),
    "lt": ("exclusiveMaximum", min),
    "multiple_of": ("multipleOf", max),
}
END_SCHEMA = {
    "type": "object",
    "properties": {"reason": {"enum": ["shutdown", "deleted"]}},
    "required": ["reason"],
}
EXAMPLES = {"default", "example", "examples"}


class FieldError(BaseModel):
    """What is wrong with one part of a request. The input is not repeated."""

    loc: list[str | int]
    msg: str
    type: str


class Problem(BaseModel):
    """An error (RFC 9457). `code` is stable; `detail` is for a person and may change."""

    type: str
    title: str
    status: int
    detail: str
    code: str
    instance: str
    request_id: str
    errors: list[FieldError] | None = None


class TokenProblem(Problem):
    """An error of the token endpoint, with the `error` of RFC 6749, section 5.2."""

    error: Literal["invalid_grant", "invalid_request", "unsupported_grant_type"]


# What every `cacheable` route may answer beside its own responses.
NOT_MODIFIED: Responses = {304: {"description": "The client has it: see If-None-Match and ETag"}}

# What a route that exports rows answers.
EXPORTED: Responses = {
    200: {
        "description": "All rows. A response that ends early is not terminated (RFC 9112, §8)",
        "content": {name: {"schema": {"type": "string"}} for name in FORMATS},
    }
}


def problems(*statuses: int, schema: str = "Problem") -> Responses:
    """Document the problems of a route. 429 and 503 are added: every route may answer them."""
    return {
        **{status: _problem(status, schema) for status in (*statuses, 429)},
        503: _problem(503),
    }


def events(name: str, schema: type[BaseModel]) -> Responses:
    """Document a stream of events. Their data is JSON with a schema that other routes use too."""
    kinds = [_event(name, {"$ref": f"{SCHEMA_PATH}{schema.__name__}"}), _event("end", END_SCHEMA)]
    return {200: {"content": {"text/event-stream": {"itemSchema": {"oneOf": kinds}}}}}


def _event(name: str, schema: dict[str, Any]) -> dict[str, Any]:
    data = {"type": "string", "contentMediaType": "application/json", "contentSchema": schema}
    properties = {"event": {"const": name}, "id": {"type": "string"}, "data": data}
    return {"type": "object", "properties": properties, "required": ["event", "data"]}


def _problem(status: int, schema: str = "Problem") -> dict[str, Any]:
    content = {MEDIA_TYPE: {"schema": {"$ref": f"{SCHEMA_PATH}{schema}"}}}
    return {"description": title(status), "content": content}


def add_documentation(app: FastAPI, root_path: str) -> None:
    """Serve `/docs`, and a complete document as `/openapi.json`.

    `root_path` is the prefix under which clients reach the service.
    """
    app.openapi = lambda: _document(app, root_path)  # type: ignore[method-assign]
    app.mount("/docs/assets", RangeStaticFiles(packages=[("fastapi_swagger", "resources")]))
    page_title = app.title  # not `app` below: FastAPI keeps the functions of routes for ever
    building = asyncio.Lock()

    async def openapi(request: Request) -> JSONResponse:
        # The first call takes some tenths of a second, so it runs in a thread. Others wait for it,
        # because the framework keeps its document before it is complete.
        async with building:
            document = await asyncio.to_thread(request.app.openapi)
        return JSONResponse(document)

    app.add_route("/openapi.json", openapi, include_in_schema=False)

    @app.get("/docs", include_in_schema=False)
    async def docs() -> HTMLResponse:
        # With relative addresses, no Host header decides from where scripts are loaded.
        page = get_swagger_ui_html(
            openapi_url="openapi.json",
            title=page_title,
            swagger_js_url="docs/assets/swagger-ui-bundle.js",
            swagger_css_url="docs/assets/swagger-ui.css",
            swagger_favicon_url="docs/assets/favicon-32x32.png",
            swagger_ui_parameters={"tryItOutEnabled": True, "displayRequestDuration": True},
        )
        page.headers.update({**PAGE_HEADERS, "Content-Security-Policy": PAGE_POLICY})
        return page


def _document(app: FastAPI, root_path: str) -> dict[str, Any]:
    if app.openapi_schema is None:
        document = FastAPI.openapi(app)
        _correct_limits(document)
        if root_path:
            document["servers"] = [{"url": root_path}]
        for operation in (o for path in document["paths"].values() for o in path.values()):
            _correct_validation_error(operation["responses"])
        schemas = document["components"]["schemas"]
        for unused in ("HTTPValidationError", "ValidationError"):
            schemas.pop(unused, None)
        for model in (Problem, TokenProblem):
            schema = model.model_json_schema(ref_template=SCHEMA_PATH + "{model}")
            schemas |= {**schema.pop("$defs"), model.__name__: schema}
        _prefix_addresses(document["components"].get("securitySchemes", {}), root_path)
        app.openapi_schema = document
    return app.openapi_schema


def _correct_validation_error(responses: dict[str, Any]) -> None:
    """Replace the 422 that the framework adds by a problem. Token endpoints answer 400 instead."""
    if "TokenProblem" in str(responses.get("400")):
        responses.pop("422", None)
    elif "HTTPValidationError" in str(responses.get("422")):
        responses["422"] = _problem(422)


def _prefix_addresses(schemes: dict[str, Any], root_path: str) -> None:
    """Put the prefix before the OAuth2 URLs, because tools do not apply `servers` to them."""
    for scheme in schemes.values():
        for flow in scheme.get("flows", {}).values():
            for name in flow.keys() & {"authorizationUrl", "refreshUrl", "tokenUrl"}:
                if flow[name].startswith("/"):
                    flow[name] = root_path + flow[name]


def _correct_limits(part: Any) -> None:
    """Write the limits of numbers as JSON Schema does, everywhere in a part of the document."""
    if isinstance(part, list):
        for one in part:
            _correct_limits(one)
    if not isinstance(part, dict):
        return
    for name, (keyword, narrower) in LIMITS.items():
        if isinstance(part.get(name), int | float):
            limit = part.pop(name)
            part[keyword] = narrower(limit, part.get(keyword, limit))
        limit = part.get(keyword)
        if part.get("type") == "integer" and isinstance(limit, float):
            # The framework writes limits as floats, which rounds the largest BIGINT up.
            part[keyword] = min(int(limit), MAX_WHOLE)
    for name, one in part.items():
        if name not in EXAMPLES:
            _correct_limits(one)
