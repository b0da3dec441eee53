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


def link_neighbours(request: Request, response: Response, page: Page[RowT]) -> None:
    """Add the `Link` header: relative, so that no Host header can point it elsewhere."""
    links = [
        f'<{_with_cursor(request, cursor)}>; rel="{relation}"'
        for relation, cursor in (("next", page.next), ("prev", page.prev))
        if cursor is not None
    ]
    if links:
        response.headers["Link"] = ", ".join(links)


def _with_cursor(request: Request, cursor: str) -> str:
    query = {**request.query_params, "cursor": cursor}
    return f"{quote(request.scope['path'])}?{urlencode(sorted(query.items()))}"
