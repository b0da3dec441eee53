"""Turns every error into `application/problem+json` (RFC 9457) with a stable code and a request id.

A problem repeats nothing that the client sent, except the path and the names of known fields.
"""

import logging
from collections.abc import Mapping, Sequence
from http import HTTPStatus
from http.client import responses
from typing import Any
from urllib.parse import quote

import orjson
from fastapi import FastAPI, Request
from fastapi.exceptions import RequestValidationError
from fastapi.utils import is_body_allowed_for_status_code
from sqlalchemy.exc import SQLAlchemyError
from starlette.exceptions import HTTPException
from starlette.formparsers import MultiPartException
from starlette.responses import Response
from starlette.types import Receive, Scope, Send

from app.errors import AppError, Conflict, Unavailable
from app.infra.database.error_mapping import describe, is_safe_to_retry, to_app_error
from app.infra.database.schema import Schema
from app.infra.observability.repeat_filter import RepeatFilter
from app.infra.observability.request_context import request_id
from app.infra.web.oauth2 import NOT_STORED, STATUSES, is_token_endpoint, oauth2_error
from app.infra.web.request_retry import RetryRequest, may_retry
from app.infra.web.response_headers import PRIVATE, headers_before_body
from app.infra.web.routing import route_table_of
from coherent_cache import CacheBusy

logger = logging.getLogger(__name__)
logger.addFilter(RepeatFilter())  # a failing database fails every request

MEDIA_TYPE = "application/problem+json"
ACCEPTED_MEDIA_TYPES = (
    "application/json",
    "application/x-www-form-urlencoded",
    "multipart/form-data",
)
PARSE_ERROR = "There was an error parsing the body"  # of FastAPI
MAX_ERRORS = 20  # otherwise the response to a body of unknown fields would be larger than the body
MAX_INSTANCE = 512  # characters of the path
FAILED_REQUEST = "The database failed a request: %s"
# Lines for failures that only an operator can end, by the code of the problem.
LOGGED = {
    "schema_behind": "The schema of the database is behind this code, so a request failed. Migrate "
    "it with: python -m alembic upgrade head. The error was: %s",
    "missing_privilege": "The role in DATABASE_URL lacks a privilege, so a request failed. Grant "
    "it, for example by running deploy/postgres/roles.sql again. The error was: %s",
}
CODES = {
    401: "unauthenticated",
    403: "forbidden",
    404: "not_found",
    405: "method_not_allowed",
    409: "conflict",
    412: "stale",
    413: "too_large",
    415: "unsupported_media_type",
    416: "range_not_satisfiable",
    422: "invalid_request",
    429: "rate_limited",
    503: "unavailable",
}
# The titles of RFC 9110. Python's own differ between its versions.
TITLES = {
    413: "Content Too Large",
    416: "Range Not Satisfiable",
    422: "Unprocessable Content",
}


def problem(
    scope: Scope,
    status: int,
    code: str,
    detail: str,
    *,
    errors: Sequence[Mapping[str, Any]] | None = None,
    headers: Mapping[str, str] | None = None,
) -> Response:
    """Build the response for one problem. `detail` is a sentence for a person.

    It sets no-store, because caches may otherwise store a 404 (RFC 9111 §4.2.2).
    """
    given = {name.title(): value for name, value in (headers or {}).items()}
    headers = {"Cache-Control": PRIVATE, **given}
    members = {}
    if status < 500 and is_token_endpoint(scope):
        status = STATUSES.get(status, status)
        members["error"] = oauth2_error(code)
        headers |= NOT_STORED
    if status == 401:
        headers.setdefault("Www-Authenticate", "Bearer")
    body: dict[str, Any] = {
        "type": "about:blank",
        "title": title(status),
        "status": status,
        "detail": detail,
        "code": code,
        "instance": quote(scope["path"][:MAX_INSTANCE]),
        "request_id": request_id(),
        **members,
    }
    if errors is not None:
        body["errors"] = errors
    return Response(orjson.dumps(body), status, headers, media_type=MEDIA_TYPE)


def title(status: int) -> str:
    return TITLES.get(status) or responses.get(status, f"Status {status}")


def _description(status: int) -> str:
    """Return the sentence for a status, without the full stop."""
    return (status in responses and HTTPStatus(status).description) or title(status)


def code_of(status: int) -> str:
    return CODES.get(status) or title(status).lower().replace(" ", "_").replace("-", "_")


def add_problem_handlers(app: FastAPI) -> None:
    """Make `app` answer with problems, for its own errors, the framework's and the database's."""
    app.add_exception_handler(AppError, _on_app_error)
    app.add_exception_handler(HTTPException, _on_http_exception)
    app.add_exception_handler(RequestValidationError, _on_invalid_request)
    app.add_exception_handler(SQLAlchemyError, _on_database_error)
    app.add_exception_handler(CacheBusy, _on_busy_cache)
    app.add_exception_handler(Exception, _on_unexpected_error)


def problem_of(scope: Scope, error: AppError) -> Response:
    headers = {}
    if error.retry_after_seconds is not None:
        headers["Retry-After"] = str(error.retry_after_seconds)
    return problem(scope, error.status, error.code, error.detail, headers=headers)


async def refuse(error: AppError, scope: Scope, receive: Receive, send: Send) -> None:
    """Answer with an error before the body of the request was read."""
    response = problem_of(scope, error)
    response.headers.update(headers_before_body(scope))
    await response(scope, receive, send)


def unexpected_error(scope: Scope) -> Response:
    return problem(scope, 500, "internal_error", "An unexpected error occurred.")


async def _on_app_error(request: Request, error: Exception) -> Response:
    assert isinstance(error, AppError)
    return problem_of(request.scope, error)


async def _on_busy_cache(request: Request, error: Exception) -> Response:
    return problem_of(request.scope, Unavailable(str(error)))


async def _on_unexpected_error(request: Request, _error: Exception) -> Response:
    return unexpected_error(request.scope)


async def _on_http_exception(request: Request, error: Exception) -> Response:
    assert isinstance(error, HTTPException)
    status, detail, headers = error.status_code, error.detail, error.headers
    if not is_body_allowed_for_status_code(status):
        return Response(None, status, headers)
    if _is_parse_error(error):
        status, detail = 422, ""
    if status == 405:
        headers = {"Allow": ", ".join(sorted(_allowed_methods(request)))}
    if not detail or detail == title(status):
        detail = f"{_description(status)}."
    return problem(request.scope, status, code_of(status), detail, headers=headers)


def _is_parse_error(error: HTTPException) -> bool:
    """Tell whether the framework could not parse the body, for which it raises a 400."""
    is_from_parser = isinstance(error.__cause__, MultiPartException)
    return error.status_code == 400 and (is_from_parser or error.detail == PARSE_ERROR)


async def _on_invalid_request(request: Request, error: Exception) -> Response:
    assert isinstance(error, RequestValidationError)
    if _has_unknown_media_type(request, error):
        return await _on_http_exception(request, HTTPException(415))
    errors = [
        {"loc": _location(entry), "msg": entry["msg"], "type": entry["type"]}
        for entry in error.errors()[:MAX_ERRORS]
    ]
    detail = "The request does not have the form that this call takes: see `errors`."
    return problem(request.scope, 422, "invalid_request", detail, errors=errors)


async def _on_database_error(request: Request, error: Exception) -> Response:
    assert isinstance(error, SQLAlchemyError)
    if is_safe_to_retry(error) and may_retry():
        logger.warning("The database failed a request, which runs again: %s", describe(error))
        raise RetryRequest from error
    failure = to_app_error(error)
    if not isinstance(failure, Unavailable | Conflict):
        schema: Schema = request.app.state.resources.schema
        if await schema.explains_failure():
            failure = Unavailable("The schema of the database is too old.", code="schema_behind")
    if failure is None:
        logger.error(
            "The database refused a statement, and it is not the client's fault: %s",
            describe(error),
        )
        raise error
    logger.warning(LOGGED.get(failure.code, FAILED_REQUEST), describe(error))
    return problem_of(request.scope, failure)


def _allowed_methods(request: Request) -> set[str]:
    """Return the methods of all routes with this path. The framework only knows one route's."""
    # A mount has no methods, and serves static files.
    methods = route_table_of(request.scope).methods(request.scope) or {"GET"}
    return methods | {"HEAD"} if "GET" in methods else methods


def _has_unknown_media_type(request: Request, error: RequestValidationError) -> bool:
    """Whether the media type of the body is one that no route accepts."""
    if not any(entry["loc"][:1] == ("body",) for entry in error.errors()):
        return False
    media_type = request.headers.get("content-type", "").partition(";")[0].strip().lower()
    has_body = request.headers.get("content-length", "0") != "0" or (
        "transfer-encoding" in request.headers
    )
    is_accepted = media_type in ACCEPTED_MEDIA_TYPES or media_type.endswith("+json")
    return has_body and not is_accepted


def _location(entry: Mapping[str, Any]) -> list[str | int]:
    """Return the place of an error without the name of an unknown field, which the client chose."""
    location = list(entry["loc"])
    return location[:-1] if entry["type"] == "extra_forbidden" else location
