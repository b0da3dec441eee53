"""What a feature says about its events: how to find them in the database."""

from collections.abc import Awaitable, Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import NamedTuple

from sqlalchemy.ext.asyncio import AsyncSession


class Event(NamedTuple):
    """`data` is one line, such as JSON."""

    id: int
    data: bytes


@dataclass(frozen=True, slots=True)
class Feed:
    """The events of one kind, such as the comments of a post. The `key` is the id of the post.

    `newest` returns the id of the newest event of each key, 0 without events, and leaves out the
    keys that do not exist. `read` takes a key, the id of an event, and a number. It returns that
    many of the events after this one, or fewer if there are no more, in the order of their ids.

    The events of a key must become visible in the order of their ids. A sequence alone does not
    ensure that: the transaction that drew 10 may commit after the one that drew 11, and a client
    that has 11 never asks for 10. So a write first locks the row of the key, and draws the id
    afterwards. It holds the lock until the commit: when the next id is drawn, this one is visible.
    """

    event: str
    missing: str  # the sentence of the 404
    tag: Callable[[int], str]  # every write that adds an event, or deletes the key, invalidates it
    newest: Callable[[AsyncSession, Sequence[int]], Awaitable[Mapping[int, int]]]
    read: Callable[[AsyncSession, int, int, int], Awaitable[Sequence[Event]]]
