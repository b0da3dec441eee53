"""The memory is trusted only while its process hears of changes."""

import asyncio
from collections.abc import AsyncIterator
from contextlib import suppress

import pytest
from redis.asyncio import Redis

from app.infra.cache import channel as channel_module
from app.infra.cache.client import open_server
from app.infra.cache.entry import Entry
from app.sections import ValkeySettings
from tests.infra.cache.laboratory import Clock
from tests.infra.cache.worker import Proxy, Worker, eventually, make_worker

NAME = "listener"


@pytest.fixture
async def proxy(valkey_settings: ValkeySettings) -> AsyncIterator[Proxy]:
    proxy = Proxy(valkey_settings)
    await proxy.start()
    yield proxy
    proxy.stop()


@pytest.fixture
async def listener(proxy: Proxy, monkeypatch: pytest.MonkeyPatch) -> AsyncIterator[Worker]:
    """A worker whose channel listens through the proxy, and remembers one entry."""
    monkeypatch.setattr(channel_module, "PING_SECONDS", 0.05)
    async with open_server(proxy.settings()) as far:
        far.connection_pool.connection_kwargs["client_name"] = NAME
        worker = make_worker(far)
        task = asyncio.create_task(worker.channel.run())
        await eventually(lambda: worker.channel.is_live)
        worker.memory.put(Entry("key", ("tag",), b""), worker.memory.begin())
        yield worker
        task.cancel()
        with suppress(asyncio.CancelledError):
            await task


async def test_a_message_drops_what_carries_its_tags(listener: Worker, valkey: Redis) -> None:
    listener.memory.put(Entry("other", ("other",), b""), listener.memory.begin())
    await make_worker(valkey).store.invalidate(["something", "tag"])
    await eventually(lambda: listener.memory.get("key") is None)
    assert listener.memory.get("other") is not None


async def test_a_connection_that_was_killed_may_have_missed_something(
    listener: Worker, valkey: Redis
) -> None:
    clients = await valkey.client_list(_type="pubsub")
    [own] = [client for client in clients if client["name"] == NAME]
    await valkey.client_kill_filter(_id=own["id"])
    await eventually(lambda: listener.memory.get("key") is None)
    await eventually(lambda: listener.channel.is_live)


async def test_a_silent_connection_is_replaced(listener: Worker, proxy: Proxy) -> None:
    proxy.go_silent()
    await eventually(lambda: not listener.channel.is_live)
    await eventually(lambda: listener.channel.is_live)
    assert listener.memory.get("key") is None


async def test_a_server_that_is_away_is_tried_again(listener: Worker, proxy: Proxy) -> None:
    proxy.stop()
    await eventually(lambda: not listener.channel.is_live)
    await proxy.start()
    await eventually(lambda: listener.channel.is_live)
    assert listener.memory.get("key") is None


async def test_without_pongs_it_is_not_live(valkey: Redis, monkeypatch: pytest.MonkeyPatch) -> None:
    clock = Clock()
    monkeypatch.setattr(channel_module, "time", clock)
    channel = make_worker(valkey).channel
    assert not channel.is_live
    channel.hear({"type": "pong"})
    clock.now += channel_module.LIVE_SECONDS - 0.1
    assert channel.is_live
    channel.hear({"type": "message", "data": b"tag"})
    clock.now += 0.2
    assert not channel.is_live
