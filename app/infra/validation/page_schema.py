"""The body of the response for a page of a list."""

from typing import Generic, TypeVar

from pydantic import BaseModel

ItemT = TypeVar("ItemT")


class PageRead(BaseModel, Generic[ItemT]):
    """Items, and the cursors of the next and previous page, null where there is none."""

    items: list[ItemT]
    next: str | None
    prev: str | None
