"""How a page of a list looks on the wire: its body, and its RFC 8288 `Link` header."""

from typing import Generic, TypeVar
from urllib.parse import quote, urlencode

from pydantic import BaseModel
from starlette.requests import Request
from starlette.responses import Response

from app.infra.database.pagination import Page, RowT

ItemT = TypeVar("ItemT")


class PageRead(BaseModel, Generic[ItemT]):
    """Items, and the cursors of the neighbouring pages: null where there is none."""

    items: list[ItemT]
    next: str | None
    prev: str | None


def link_neighbours(
    request: Request, response: Response, page: Page[RowT], **parameters: object
) -> None:
    """Add the `Link` header: relative, so that no Host header can point it elsewhere.

    `parameters` are the query parameters of the route, as they were validated: the links repeat
    those that the client sent, and nothing else of its query.
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
