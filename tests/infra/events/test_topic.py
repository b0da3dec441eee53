"""The events that a process keeps for its clients."""

import time
from collections.abc import Sequence

import pytest
from sqlalchemy.ext.asyncio import AsyncSession

from app.infra.events.feed import Event, Feed
from app.infra.events.topic import (
    KEPT_SECONDS,
    MAX_BYTES,
    MAX_FRAMES,
    Frame,
    Listener,
    Topic,
    frames_of,
)


async def _nothing(session: AsyncSession, *_: object) -> Sequence[Event]:
    return []


async def _none(session: AsyncSession, keys: Sequence[int]) -> dict[int, int]:
    return {}


FEED = Feed("thing", "There is no such thing.", lambda key: f"thing:{key}", _none, _nothing)


def frames(*ids: int, size: int = 1) -> list[Frame]:
    return frames_of(FEED, [Event(event_id, b"x" * size) for event_id in ids], time.monotonic())


def contents(*ids: int) -> list[bytes]:
    return [frame.content for frame in frames(*ids)]


def test_event_is_encoded_as_browsers_expect_it() -> None:
    [frame] = frames_of(FEED, [Event(7, b'{"a":1}')], 0)
    assert frame.content == b'event: thing\nid: 7\ndata: {"a":1}\n\n'


def test_topic_returns_the_events_after_an_id() -> None:
    topic = Topic(FEED, 1, 10)
    topic.add(frames(11, 13, 17))
    assert topic.after(10) == contents(11, 13, 17)
    assert topic.after(12) == contents(13, 17)
    assert topic.after(17) == []
    assert topic.after(99) == []
    assert topic.after(9) is None


def test_all_clients_get_the_same_object() -> None:
    topic = Topic(FEED, 1, 0)
    topic.add(frames(1))
    [one], [other] = topic.after(0) or [], topic.after(0) or []
    assert one is other


def test_number_of_events_that_are_kept_is_limited() -> None:
    topic = Topic(FEED, 1, 0)
    topic.add(frames(*range(1, MAX_FRAMES + 11)))
    assert topic.floor == 10
    assert topic.after(9) is None
    assert len(topic.after(10) or []) == MAX_FRAMES


def test_size_of_events_that_are_kept_is_limited() -> None:
    topic = Topic(FEED, 1, 0)
    topic.add(frames(1, 2, 3, size=MAX_BYTES // 2))
    assert topic.floor == 2
    assert len(topic.after(2) or []) == 1


def test_earlier_events_that_a_client_has_read_are_kept_for_others() -> None:
    topic = Topic(FEED, 1, 10)
    topic.add(frames(11))
    topic.add_earlier(3, frames(5, 9, 11), known=11)
    assert topic.after(3) == contents(5, 9, 11)
    assert topic.after(2) is None


def test_earlier_events_are_not_kept_if_some_are_missing_between() -> None:
    """The topic has forgotten events while the client read, and the client has not read these."""
    topic = Topic(FEED, 1, 10)
    topic.add(frames(*range(11, MAX_FRAMES + 21)))
    topic.add_earlier(3, frames(5, 9), known=10)
    assert topic.floor == 20
    assert topic.after(3) is None


def test_earlier_events_do_not_push_newer_ones_out() -> None:
    topic = Topic(FEED, 1, 1_000)
    topic.add(frames(*range(1_001, 1_001 + MAX_FRAMES)))
    topic.add_earlier(1, frames(5), known=1_000)
    assert topic.floor == 1_000


def test_events_are_kept_for_a_short_time(monkeypatch: pytest.MonkeyPatch) -> None:
    topic = Topic(FEED, 1, 10)
    topic.add(frames(11))
    now = time.monotonic()
    monkeypatch.setattr("app.infra.events.topic.time.monotonic", lambda: now + KEPT_SECONDS)
    topic.add(frames(12))
    assert topic.after(10) is None
    assert topic.after(11) == contents(12)


def test_events_are_forgotten_if_a_later_read_could_have_found_them_deleted() -> None:
    topic = Topic(FEED, 1, 10)
    topic.add(frames(11))
    later = time.monotonic() + 1
    topic.add([frame._replace(read_at=later) for frame in frames(12)])
    topic.forget_read_before(later)
    assert topic.floor == 11
    assert topic.after(11) == contents(12)


def test_later_read_replaces_what_the_topic_has() -> None:
    """Event 11 was deleted in between, and 12 has changed."""
    topic = Topic(FEED, 1, 10)
    topic.add(frames(11, 12, 13))
    topic.forget_read_before(time.monotonic())
    topic.add(frames(14))
    [changed] = frames(12, size=2)
    topic.add_earlier(9, [*frames(10), changed], known=13)
    assert topic.after(9) == [*contents(10), changed.content, *contents(14)]


def test_events_that_were_read_earlier_do_not_live_longer_behind_later_ones() -> None:
    topic = Topic(FEED, 1, 10)
    topic.add(frames(11))
    later = time.monotonic() + 1
    topic.add_earlier(3, [one._replace(read_at=later) for one in frames(5)], known=10)
    topic.forget_read_before(later)
    assert topic.floor == topic.position == 11


async def test_client_that_is_ahead_of_the_topic_gets_no_event_twice() -> None:
    topic = Topic(FEED, 1, 10)
    listener = Listener(topic, 12)
    topic.listeners.add(listener)
    topic.add(frames(11, 12))
    assert listener.take() == []
    topic.add(frames(13))
    assert listener.take() == contents(13)
