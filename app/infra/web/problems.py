"""Every error as `application/problem+json` (RFC 9457), with a stable code and the request id.

Nothing that the client sent is repeated in it, but for the path and the names of known fields.
"""

import logging
from collections.abc import Mapping, Sequence
from http import HTTPStatus
from typing import Any
from urllib.parse import quote

import orjson
from fastapi import FastAPI, Request
from fastapi.exceptions import RequestValidationError
from sqlalchemy.exc import DBAPIError, SQLAlchemyError
from starlette.exceptions import HTTPException
from starlette.responses import Response
from starlette.types import Scope

from app.errors import AppError, Unavailable
from app.infra.database.error_mapping import (
    is_safe_to_retry,
    to_app_error,
    violated_constraint,
)
from app.infra.observability.repeat_filter import RepeatFilter
from app.infra.observability.request_context import request_id
from app.infra.web.oauth2 import NOT_STORED, STATUSES, is_token_endpoint, oauth2_error
from app.infra.web.request_retry import RetryRequest, may_retry
from app.infra.web.routing import route_table_of
from app.infra.web.security_headers import PRIVATE
from coherent_cache import CacheBusy

logger = logging.getLogger(__name__)
logger.addFilter(RepeatFilter())  # a failing database fails every request

MEDIA_TYPE = "application/problem+json"
MEDIA_TYPES_TAKEN = (
    "application/json",
    "application/x-www-form-urlencoded",
    "multipart/form-data",
)
MOST_ERRORS = 20  # a body of unknown fields must not be answered with a larger one
MOST_INSTANCE = 512  # characters of the path: no longer one belongs to anything here
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


# The names of RFC 9110; Python's own for these differ between its versions.
RENAMED = {
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
    """Build the response for one problem; `detail` is a sentence for a person.

    Nobody keeps it: without a word, others may keep a 404 (RFC 9111, §4.2.2).
    """
    headers = {"Cache-Control": PRIVATE, **(headers or {})}
    members = {}
    if status < 500 and is_token_endpoint(scope):
        status = STATUSES.get(status, status)
        members["error"] = oauth2_error(code)
        headers |= NOT_STORED
    if status == 401:
        headers["WWW-Authenticate"] = "Bearer"
    body: dict[str, Any] = {
        "type": "about:blank",
        "title": title(status),
        "status": status,
        "detail": detail,
        "code": code,
        "instance": quote(scope["path"][:MOST_INSTANCE]),
        "request_id": request_id(),
        **members,
    }
    if errors is not None:
        body["errors"] = errors
    return Response(orjson.dumps(body), status, headers, media_type=MEDIA_TYPE)


def title(status: int) -> str:
    """Return what a status is called."""
    return RENAMED.get(status, HTTPStatus(status).phrase)


def code_of(status: int) -> str:
    """Return the code of a status that has one cause."""
    return CODES.get(status, HTTPStatus(status).name.lower())


def add_problem_handlers(app: FastAPI) -> None:
    """Make `app` answer its errors, the framework's and the database's as problems."""
    app.add_exception_handler(AppError, _on_app_error)
    app.add_exception_handler(HTTPException, _on_http_exception)
    app.add_exception_handler(RequestValidationError, _on_invalid_request)
    app.add_exception_handler(SQLAlchemyError, _on_database_error)
    app.add_exception_handler(CacheBusy, _on_busy_cache)


def problem_of(scope: Scope, error: AppError) -> Response:
    """Build the response for an expected failure."""
    headers = {}
    if error.retry_after_seconds is not None:
        headers["Retry-After"] = str(error.retry_after_seconds)
    return problem(scope, error.status, error.code, error.detail, headers=headers)


async def _on_app_error(request: Request, error: Exception) -> Response:
    assert isinstance(error, AppError)
    return problem_of(request.scope, error)


async def _on_busy_cache(request: Request, error: Exception) -> Response:
    return problem_of(request.scope, Unavailable(str(error)))


async def _on_http_exception(request: Request, error: Exception) -> Response:
    assert isinstance(error, HTTPException)
    status, headers = error.status_code, error.headers
    if status == 400:  # what the framework says of a body that it cannot parse
        status = 422
    if status == 405:
        headers = {"Allow": ", ".join(sorted(_allowed_methods(request)))}
    code = code_of(status)
    detail = f"{HTTPStatus(status).description or title(status)}."
    return problem(request.scope, status, code, detail, headers=headers)


async def _on_invalid_request(request: Request, error: Exception) -> Response:
    assert isinstance(error, RequestValidationError)
    if _has_foreign_content(request, error):
        return await _on_http_exception(request, HTTPException(415))
    errors = [
        {"loc": _location(entry), "msg": entry["msg"], "type": entry["type"]}
        for entry in error.errors()[:MOST_ERRORS]
    ]
    detail = "The request does not have the form that this call takes: see `errors`."
    return problem(request.scope, 422, "invalid_request", detail, errors=errors)


async def _on_database_error(request: Request, error: Exception) -> Response:
    assert isinstance(error, SQLAlchemyError)
    if is_safe_to_retry(error) and may_retry():
        logger.warning("The database failed a request, run again: %s", _cause(error))
        raise RetryRequest from error
    failure = to_app_error(error)
    if failure is None:
        logger.error(
            "The database refused a statement, which is no client's fault: %s", _cause(error)
        )
        raise error
    logger.warning("The database failed a request: %s", _cause(error))
    return problem_of(request.scope, failure)


def _allowed_methods(request: Request) -> set[str]:
    """Return every method of this path; the framework knows those of one route at a time."""
    # A mount has no methods, and serves static files.
    methods = route_table_of(request.scope).methods(request.scope) or {"GET"}
    return methods | {"HEAD"} if "GET" in methods else methods


def _has_foreign_content(request: Request, error: RequestValidationError) -> bool:
    """Whether the body is of a type that no call takes, so that it was not even looked at."""
    if not any(entry["loc"][:1] == ("body",) for entry in error.errors()):
        return False
    media_type = request.headers.get("content-type", "").partition(";")[0].strip().lower()
    has_body = request.headers.get("content-length", "0") != "0" or (
        "transfer-encoding" in request.headers
    )
    taken = media_type in MEDIA_TYPES_TAKEN or media_type.endswith("+json")
    return has_body and not taken


def _location(entry: Mapping[str, Any]) -> list[str | int]:
    """Say where the error is; the name of a field that we do not know is the client's own."""
    location = list(entry["loc"])
    return location[:-1] if entry["type"] == "extra_forbidden" else location


def _cause(error: SQLAlchemyError) -> str:
    """Return what happened without the message, which may quote what a client sent."""
    sqlstate = getattr(getattr(error, "orig", None), "sqlstate", None)
    constraint = violated_constraint(error) if isinstance(error, DBAPIError) else None
    named = f", constraint {constraint}" if constraint else ""
    return f"{type(error).__name__}, SQLSTATE {sqlstate}{named}"
