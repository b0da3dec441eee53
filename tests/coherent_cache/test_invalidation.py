"""A committed change is invalidated whatever happens. A change that was rolled back is not."""

import asyncio
from collections.abc import Callable, Sequence

import pytest
import sqlalchemy as sa
from sqlalchemy.exc import IntegrityError

from coherent_cache import Entry, invalidate, shows
from coherent_cache.store import Store
from coherent_cache.together import TAGS_PER_COMMAND, SentTogether
from tests.coherent_cache.service import Service
from tests.coherent_cache.worker import Proxy, eventually


class Crash(BaseException):
    """Stands for the end of the process."""


class SlowCommands:
    """Invalidations that wait for `may_begin`. Their tags, as callers asked and as were sent."""

    def __init__(self) -> None:
        self.asked: list[Sequence[str]] = []
        self.sent: list[Sequence[str]] = []
        self.may_begin = asyncio.Event()


@pytest.fixture
def commands(monkeypatch: pytest.MonkeyPatch) -> SlowCommands:
    commands, ask, send = SlowCommands(), Store.invalidate_together, Store.invalidate

    async def note_and_ask(store: Store, tags: Sequence[str]) -> None:
        commands.asked.append(tags)
        await ask(store, tags)

    async def send_later(store: Store, tags: Sequence[str]) -> None:
        commands.sent.append(tags)
        await commands.may_begin.wait()
        await send(store, tags)

    monkeypatch.setattr(Store, "invalidate_together", note_and_ask)
    monkeypatch.setattr(Store, "invalidate", send_later)
    return commands


async def change(service: Service, tag: str) -> None:
    async with service.transaction() as session:
        invalidate(session, tag)


async def test_committed_change_is_invalidated_when_the_transaction_ends(
    service: Service,
) -> None:
    await service.remember("tag", "other")
    await service.remember("other", key="other")
    async with service.transaction() as session:
        invalidate(session, "tag")
        assert await service.is_valid()
        assert service.cache.memory.get("key") is not None
    assert not await service.is_valid()
    assert service.cache.memory.get("key") is None
    assert await service.is_valid("other")
    assert service.cache.memory.get("other") is not None


async def test_change_that_was_rolled_back_invalidates_nothing(service: Service) -> None:
    await service.remember("tag")
    with pytest.raises(LookupError):
        async with service.transaction() as session:
            invalidate(session, "tag")
            await service.cache.before_commit(session)
            raise LookupError
    assert await service.is_valid()
    assert service.cache.memory.get("key") is not None
    assert not await service.waiting()
    assert not service.cache.invalidation.completed_ids


async def test_commit_that_fails_invalidates_nothing(service: Service) -> None:
    await service.remember("tag")
    table = "CREATE TEMPORARY TABLE late (id int UNIQUE DEFERRABLE INITIALLY DEFERRED)"
    with pytest.raises(IntegrityError, match="late_id_key"):
        async with service.transaction() as session:
            await session.execute(sa.text(table))
            await session.execute(sa.text("INSERT INTO late VALUES (1), (1)"))
            invalidate(session, "tag")
    assert await service.is_valid()
    assert not await service.waiting()
    assert not service.cache.invalidation.completed_ids


async def test_tags_are_committed_with_the_change(service: Service) -> None:
    async with service.transaction() as session:
        invalidate(session, "tag")
        invalidate(session, "other", "tag")
        await service.cache.before_commit(session)
        assert not await service.waiting()
        await session.commit()
        assert await service.waiting() == [["other", "tag"]]


async def test_transaction_without_tags_writes_no_row(service: Service) -> None:
    async with service.transaction() as session:
        await session.execute(sa.text("SELECT 1"))
    assert not await service.waiting()
    assert not service.cache.invalidation.completed_ids


async def test_more_tags_than_one_command_takes_are_invalidated(service: Service) -> None:
    tags = [f"tag:{number}" for number in range(2 * TAGS_PER_COMMAND + 1)]
    for tag in tags:
        await service.remember(tag, key=tag)
    await service.remember("other")
    async with service.transaction() as session:
        invalidate(session, *tags)
    assert not [tag for tag in tags if await service.is_valid(tag)]
    assert not [tag for tag in tags if service.cache.memory.get(tag)]
    assert await service.is_valid()
    assert [len(row) for row in await service.waiting()] == [len(tags)]


async def test_load_in_progress_is_not_stored(service: Service) -> None:
    begun, may_end = asyncio.Event(), asyncio.Event()

    async def load() -> Entry:
        begun.set()
        await may_end.wait()
        return Entry("key", ("tag",), b"old")

    reading = asyncio.create_task(service.cache.reader.read("key", load))
    await begun.wait()
    async with service.transaction() as session:
        invalidate(session, "tag")
    may_end.set()
    assert (await reading).entry.value == b"old"
    assert not await service.is_valid()
    assert service.cache.memory.get("key") is None


async def test_change_of_a_writer_that_crashes_after_its_commit_is_relayed(
    service: Service, monkeypatch: pytest.MonkeyPatch
) -> None:
    await service.remember("tag")

    async def crash(_self: Store, _tags: Sequence[str]) -> None:
        raise Crash

    with monkeypatch.context() as patch, pytest.raises(Crash):
        patch.setattr(Store, "invalidate", crash)
        async with service.transaction() as session:
            invalidate(session, "tag")
    assert await service.waiting() == [["tag"]]
    assert await service.is_valid()
    assert service.cache.memory.get("key") is None  # its own memory is invalidated all the same
    await service.set_age(30)
    await service.relay.run_once()
    assert not await service.is_valid()
    assert not await service.waiting()


async def test_transactions_that_end_together_share_a_command(
    service: Service, commands: SlowCommands
) -> None:
    """The first command is on its way while the others end. They share the second one."""
    tags = [f"tag:{number}" for number in range(5)]
    for tag in tags:
        await service.remember(tag, key=tag)
    tasks = [asyncio.create_task(change(service, tags[0]))]
    await eventually(lambda: len(commands.sent) == 1)
    tasks += [asyncio.create_task(change(service, tag)) for tag in tags[1:]]
    await eventually(lambda: len(commands.asked) == 5)
    assert not any(task.done() for task in tasks)
    commands.may_begin.set()
    await asyncio.gather(*tasks)
    assert commands.sent == [tags[:1], tags[1:]]
    assert not [tag for tag in tags if await service.is_valid(tag)]
    assert len(service.cache.invalidation.completed_ids) == 5


async def test_transaction_that_is_cancelled_cancels_no_command_of_others(
    service: Service, commands: SlowCommands
) -> None:
    await service.remember("third")
    tasks = [asyncio.create_task(change(service, "first"))]
    await eventually(lambda: len(commands.sent) == 1)
    tasks += [asyncio.create_task(change(service, tag)) for tag in ("second", "third")]
    await eventually(lambda: len(commands.asked) == 3)
    tasks[1].cancel()
    await asyncio.wait({tasks[1]})
    commands.may_begin.set()
    await asyncio.gather(tasks[0], tasks[2])
    assert not await service.is_valid()
    assert len(service.cache.invalidation.completed_ids) == 2


async def test_command_that_was_cancelled_before_it_began_takes_no_more_tags() -> None:
    """As when the event loop of a script ends, and another one begins."""
    sent: list[Sequence[str]] = []

    async def send(tags: Sequence[str]) -> None:
        sent.append(tags)

    together, others = SentTogether(send), asyncio.all_tasks()
    cancelled = asyncio.create_task(together.send(["first"]))
    await asyncio.sleep(0)
    for task in asyncio.all_tasks() - others:
        task.cancel()
    with pytest.raises(asyncio.CancelledError):
        await cancelled
    await together.send(["second"])
    assert sent == [["second"]]


async def test_bad_row_of_the_relay_fails_no_transaction(
    service: Service, commands: SlowCommands
) -> None:
    await service.remember("tag")
    await service.leave_behind("good", None)
    relaying = asyncio.create_task(service.relay.run_once())
    await eventually(lambda: len(commands.sent) == 1)
    changing = asyncio.create_task(change(service, "tag"))
    await eventually(lambda: len(commands.asked) == 1)
    commands.may_begin.set()
    await asyncio.gather(relaying, changing)
    assert not await service.is_valid()
    assert len(service.cache.invalidation.completed_ids) == 1


async def test_writer_without_valkey_invalidates_its_own_memory(
    cut_off: Service, proxy: Proxy
) -> None:
    await proxy.start()
    await eventually(lambda: cut_off.cache.channel.is_live)  # it empties the memory
    await cut_off.remember("tag")
    proxy.stop()
    async with cut_off.transaction() as session:
        invalidate(session, "tag")
    assert cut_off.cache.memory.get("key") is None
    assert not cut_off.cache.invalidation.completed_ids
    assert await cut_off.waiting() == [["tag"]]


async def test_invalidation_ignores_the_breaker(service: Service) -> None:
    await service.remember("tag")
    breaker = service.cache.store.breaker
    for _ in range(3):
        breaker.failed(TimeoutError())
    breaker._next_probe_at = float("inf")
    assert not breaker.allows()
    async with service.transaction() as session:
        invalidate(session, "tag")
    assert breaker.allows()
    assert not await service.is_valid()


@pytest.mark.parametrize("tag", ["", "a\nb"])
@pytest.mark.parametrize("record", [shows, invalidate])
async def test_tag_that_other_processes_would_misread_is_refused(
    service: Service, record: Callable[..., None], tag: str
) -> None:
    async with service.transaction() as session:
        with pytest.raises(ValueError, match="tag"):
            record(session, "note:1", tag)
