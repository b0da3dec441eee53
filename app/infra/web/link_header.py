"""The `Link` header of the response for a page of a list (RFC 8288)."""

from urllib.parse import quote, urlencode

from starlette.requests import Request
from starlette.responses import Response

from app.infra.database.pagination import Page
from app.infra.database.rows import RowT


def link_neighbours(
    request: Request, response: Response, page: Page[RowT], **parameters: object
) -> None:
    """Add the `Link` header. Its URLs are relative, so no Host header can point them elsewhere.

    `parameters` are the validated query parameters of the route. The links repeat those that the
    client sent, and nothing else of its query.
    """
    kept = {name: value for name, value in parameters.items() if name in request.query_params}
    path = quote(request.scope["path"])
    links = [
        f'<{path}?{urlencode(sorted({**kept, "cursor": cursor}.items()), doseq=True)}>; rel="{rel}"'
        for rel, cursor in (("next", page.next), ("prev", page.prev))
        if cursor is not None
    ]
    if links:
        response.headers["Link"] = ", ".join(links)
