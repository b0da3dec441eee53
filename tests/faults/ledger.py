"""Records what was written and when, and judges whether a read may show what it showed.

A register is a post or a name. It has one writer, which changes it step by step. A read must
show the newest step that was acknowledged before the read began, or a later step that had begun
when the response arrived. If a writer was cut off, its step is looked up in the database. If it
is stored, a read may miss it for as long as the relays need: the step is *late*.
"""

from bisect import bisect_left, insort
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from datetime import datetime
from typing import Any, Generic, TypeVar

ValueT = TypeVar("ValueT")
Json = dict[str, Any]
Place = tuple[datetime, int]

ALWAYS, NEVER = float("-inf"), float("inf")


@dataclass(frozen=True)
class Content:
    """What a post that exists shows."""

    title: str
    comments: tuple[str, ...] = ()

    def is_shown_by(self, post: Json) -> bool:
        return all(
            [
                post["title"] == self.title,
                post["comment_count"] == len(self.comments),
            ]
        )


State = Content | None


@dataclass
class Step(Generic[ValueT]):
    """One version. It is promised once its write was acknowledged, or was found in the database."""

    value: ValueT
    began_at: float
    promised_at: float | None = None
    is_late: bool = False
    is_void: bool = False
    was_seen: bool = False


@dataclass(frozen=True)
class Finding:
    """A stale read, and by how many seconds. NEVER: it showed what was never stored."""

    age: float
    is_late: bool
    what: str
    at: float  # when it was sent


class Register(Generic[ValueT]):
    """The versions of one post or name, in the order of its only writer."""

    def __init__(self, name: str, first: ValueT) -> None:
        self.name = name
        self.steps = [Step(first, ALWAYS, ALWAYS)]

    @property
    def value(self) -> ValueT:
        """The newest version that was promised."""
        return self.steps[self._floor(NEVER)].value

    def begin(self, value: ValueT, now: float) -> Step[ValueT]:
        """Record that a write is about to be sent."""
        self.steps.append(Step(value, now))
        return self.steps[-1]

    def check(self, shows: Callable[[ValueT], bool], started_at: float) -> Finding | None:
        """Judge a read that has just been answered."""
        floor = self._floor(started_at)
        for step in self.steps[floor:]:
            if not step.is_void and shows(step.value):
                step.was_seen = True
                return None
        for seen in reversed(range(floor)):
            if shows(self.steps[seen].value) and not self.steps[seen].is_void:
                return self._miss(seen, floor, started_at)
        return Finding(NEVER, is_late=False, what=self.name, at=started_at)

    def _miss(self, seen: int, floor: int, started_at: float) -> Finding:
        missed = [step for step in self.steps[seen + 1 : floor + 1] if step.promised_at is not None]
        late = [step for step in missed if step.is_late]
        promised_at = (late or missed)[-1].promised_at
        assert promised_at is not None
        return Finding(started_at - promised_at, bool(late), self.name, started_at)

    def _floor(self, moment: float) -> int:
        for at in reversed(range(len(self.steps))):
            promised_at = self.steps[at].promised_at
            if promised_at is not None and promised_at <= moment:
                return at
        raise AssertionError("the first step was always promised")


def label_of(title: str) -> str:
    """Return the name of a post. Its title consists of the name and a counter."""
    return title.partition("~")[0]


@dataclass
class Ledger:
    """All registers, and the places in the lists of the posts that nobody has begun to delete."""

    posts: dict[str, Register[State]] = field(default_factory=dict)
    by_id: dict[int, Register[State]] = field(default_factory=dict)
    names: dict[int, Register[str]] = field(default_factory=dict)
    places: list[tuple[Place, str, int]] = field(default_factory=list)  # with label and author

    def place(self, shown: dict[str, Any], author: int) -> None:
        """Record the place of a post in the lists."""
        label = label_of(shown["title"])
        self.by_id[shown["id"]] = self.posts[label]
        insort(self.places, (place_of(shown), label, author))

    def unplace(self, label: str) -> tuple[Place, str, int]:
        """Remove the place when a delete begins: from now on the post may be missing."""
        at = next(at for at, place in enumerate(self.places) if place[1] == label)
        return self.places.pop(at)

    def item(self, post_id: int, shown: dict[str, Any] | None, started_at: float) -> list[Finding]:
        """Judge a read of a post, or a 404."""
        if shown is not None:
            return [*self._shown(shown, started_at)]
        register = self.by_id.get(post_id)
        found = register and register.check(lambda state: state is None, started_at)
        return [found] if found else []

    def comments(
        self, post_id: int, shown: dict[str, Any] | None, started_at: float
    ) -> list[Finding]:
        """Judge the comments of a post. They all fit on one page."""
        if shown is None or (register := self.by_id.get(post_id)) is None:
            return self.item(post_id, None, started_at) if shown is None else []
        bodies = tuple(comment["body"] for comment in shown["items"])

        def shows(state: State) -> bool:
            return state is not None and state.comments == bodies

        found = [register.check(shows, started_at)]
        found += [self._author(comment["author"], started_at) for comment in shown["items"]]
        return [one for one in found if one is not None]

    def user(self, shown: dict[str, Any], started_at: float) -> list[Finding]:
        found = self._author(shown, started_at)
        return [found] if found else []

    def page(
        self,
        shown: dict[str, Any],
        started_at: float,
        *,
        after: Place | None = None,
        author: int | None = None,
    ) -> list[Finding]:
        """Judge a list: each post on it, and each post that should be on it."""
        items = shown["items"]
        findings = [found for item in items for found in self._shown(item, started_at)]
        first = place_of(items[-1]) if items and shown["next"] else None
        labels = {label_of(item["title"]) for item in items}
        for _, label, of in self._between(first, after):
            if label not in labels and author in (None, of):
                found = self.posts[label].check(lambda state: state is None, started_at)
                findings += [found] if found else []
        return findings

    def _between(self, first: Place | None, after: Place | None) -> list[tuple[Place, str, int]]:
        start = 0 if first is None else bisect_left(self.places, (first, "", 0))
        end = len(self.places) if after is None else bisect_left(self.places, (after, "", 0))
        return self.places[start:end]

    def _shown(self, post: dict[str, Any], started_at: float) -> Iterator[Finding]:
        def shows(state: State) -> bool:
            return state is not None and state.is_shown_by(post)

        for found in (
            self.posts[label_of(post["title"])].check(shows, started_at),
            self._author(post["author"], started_at),
        ):
            if found is not None:
                yield found

    def _author(self, author: dict[str, Any], started_at: float) -> Finding | None:
        name: str = author["name"]
        return self.names[author["id"]].check(lambda value: value == name, started_at)


def place_of(post: dict[str, Any]) -> Place:
    """Return the sort key of a post."""
    return datetime.fromisoformat(post["created_at"]), post["id"]
