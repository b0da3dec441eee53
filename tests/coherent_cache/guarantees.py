"""The guarantees of the cache, which must hold after every step of a simulation."""

import asyncio
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from coherent_cache.entry import Entry
from coherent_cache.reader import Answer
from tests.coherent_cache.model_database import KEYS, Database, RequiredVersions
from tests.coherent_cache.stepped_process import Process


class BrokenGuarantee(AssertionError):
    """The cache served stale data, or would serve it now."""


@dataclass(frozen=True)
class Read:
    """A read in progress, and everything that was acknowledged before it began."""

    process: Process
    task: asyncio.Task[Answer]
    required: RequiredVersions


def check_answers(reads: list[Read], database: Database) -> None:
    """Check that finished reads show what was acknowledged before they began, and remove them."""
    for read in [read for read in reads if read.task.done()]:
        reads.remove(read)
        if read.task.cancelled() or read.task.exception() is not None:
            continue
        answer = read.task.result()
        if database.is_stale(answer.entry, read.required):
            raise BrokenGuarantee(f"The answer {answer} does not show {read.required}.")


def check_memories(
    processes: Sequence[Process], database: Database, overdue: RequiredVersions
) -> None:
    """Check that each memory shows every invalidation it received, and every overdue change."""
    for process in processes:
        for key in KEYS:
            entry = process.reader.get_from_memory(key)
            for required in (process.received, overdue):
                if entry is not None and database.is_stale(entry, required):
                    raise BrokenGuarantee(f"Memory holds {entry}, which does not show {required}.")


def check_valkey(found: Sequence[Any], database: Database, invalidated: RequiredVersions) -> None:
    """Check that every valid entry shows everything that has been invalidated."""
    for entry in found:
        if isinstance(entry, Entry) and database.is_stale(entry, invalidated):
            raise BrokenGuarantee(f"Valkey holds {entry}, which does not show {invalidated}.")
