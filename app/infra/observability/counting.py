"""Counts what every request is counted by, at a tenth of what the client library takes for it.

The library locks, asks which process this is and packs two numbers at each step. The event loop's
thread is the only one that counts requests, and a worker does not fork: it adds to the number in
the mapped file, which is there for whoever adds up when the worker has been killed.
Without such files, in a single process, the library's own way is taken.

Ask for either function in the process that is to count, not before it was forked.
"""

from bisect import bisect_left
from collections.abc import Callable
from typing import Any

from prometheus_client import Counter, Histogram


def observing(histogram: Histogram) -> Callable[[float], None]:
    """Return what observes an amount, for a histogram whose labels are set, if it has any.

    From then on it is observed in no other way, and from one thread.
    """
    total, buckets = histogram._sum, histogram._buckets
    if not all(map(_is_mapped, [total, *buckets])):
        return histogram.observe
    numbers, bounds = _numbers(total), histogram._upper_bounds
    sum_at, buckets_at = _place(total), [_place(bucket) for bucket in buckets]

    def observe(amount: float) -> None:
        numbers[sum_at] += amount
        numbers[buckets_at[bisect_left(bounds, amount)]] += 1

    return observe


def counting(counter: Counter) -> Callable[[], None]:
    """Return what counts one, on the same terms."""
    value = counter._value
    if not _is_mapped(value):
        return counter.inc
    numbers, at = _numbers(value), _place(value)

    def count() -> None:
        numbers[at] += 1

    return count


def _is_mapped(value: Any) -> bool:
    """Whether the value is in a file, which has no room for it when the disk is full."""
    if not value._multiprocess:
        return False
    value.get()  # in a process that was forked, the library takes files of its own now
    return value._key in value._file._positions


def _numbers(value: Any) -> "memoryview[float]":
    """Return the file as numbers. It may grow and be mapped anew: this part of it stays."""
    return memoryview(value._file._m).cast("d")


def _place(value: Any) -> int:
    return int(value._file._positions[value._key]) // 8
