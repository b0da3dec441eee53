"""Renders the answer to a request that the server refuses before the application sees it."""

from app.infra.observability.request_context import RequestContext, request_context
from app.infra.web.problems import problem
from app.infra.web.response_headers import read_request_id, request_id_header, security_headers
from graceful_gunicorn import EarlyError


def render_problem(hsts_seconds: int, status: int, code: str, detail: str, path: str) -> EarlyError:
    """Return a problem with the headers of every answer. It sets the request context."""
    current = RequestContext(read_request_id({"headers": []}), "", path)
    request_context.set(current)
    response = problem({"path": path}, status, code, detail)
    headers = [*security_headers(hsts_seconds), *response.raw_headers, request_id_header(current)]
    return EarlyError(headers, bytes(response.body))
