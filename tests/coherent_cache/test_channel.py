"""The memory is used only while its process receives the invalidations of others."""

import asyncio
from collections.abc import AsyncIterator, Sequence
from contextlib import suppress

import pytest
from redis.asyncio import Redis

from coherent_cache import channel as channel_module
from coherent_cache.client import open_server
from coherent_cache.entry import Entry
from tests.coherent_cache.harness import Clock
from tests.coherent_cache.worker import Proxy, Worker, config_of, eventually, make_worker

NAME = "listener"


@pytest.fixture
async def listener(proxy: Proxy, monkeypatch: pytest.MonkeyPatch) -> AsyncIterator[Worker]:
    """A worker whose channel listens through the proxy, and whose memory holds one entry."""
    monkeypatch.setattr(channel_module, "PING_SECONDS", 0.05)
    await proxy.start()
    async with open_server(config_of(proxy.url)) as far:
        far.connection_pool.connection_kwargs["client_name"] = NAME
        worker = make_worker(far)
        task = asyncio.create_task(worker.channel.run())
        await eventually(lambda: worker.channel.is_live)
        worker.memory.put(Entry("key", ("tag",), b""), worker.memory.begin_read())
        yield worker
        task.cancel()
        with suppress(asyncio.CancelledError):
            await task


async def test_message_removes_the_entries_with_its_tags(listener: Worker, valkey: Redis) -> None:
    listener.memory.put(Entry("other", ("other",), b""), listener.memory.begin_read())
    await make_worker(valkey).store.invalidate(["something", "tag"])
    await eventually(lambda: listener.memory.get("key") is None)
    assert listener.memory.get("other") is not None


async def test_reconnect_after_a_killed_connection_clears_the_memory(
    listener: Worker, valkey: Redis
) -> None:
    clients = await valkey.client_list(_type="pubsub")
    [own] = [client for client in clients if client["name"] == NAME]
    await valkey.client_kill_filter(_id=own["id"])
    await eventually(lambda: listener.memory.get("key") is None)
    await eventually(lambda: listener.channel.is_live)


async def test_callback_hears_the_tags_of_others_and_when_some_may_be_missing(
    listener: Worker, valkey: Redis
) -> None:
    heard: list[Sequence[str] | None] = []
    listener.channel.callbacks.append(heard.append)
    await make_worker(valkey).store.invalidate(["one", "two"])
    await eventually(lambda: heard == [["one", "two"]])
    clients = await valkey.client_list(_type="pubsub")
    [own] = [client for client in clients if client["name"] == NAME]
    await valkey.client_kill_filter(_id=own["id"])
    await eventually(lambda: heard[1:] == [None])
    await make_worker(valkey).store.invalidate(["three"])
    await eventually(lambda: heard[2:] == [["three"]])


async def test_silent_connection_is_replaced(listener: Worker, proxy: Proxy) -> None:
    proxy.go_silent()
    await eventually(lambda: not listener.channel.is_live)
    await eventually(lambda: listener.channel.is_live)
    assert listener.memory.get("key") is None


async def test_channel_reconnects_when_the_server_returns(listener: Worker, proxy: Proxy) -> None:
    proxy.stop()
    await eventually(lambda: not listener.channel.is_live)
    await proxy.start()
    await eventually(lambda: listener.channel.is_live)
    assert listener.memory.get("key") is None


async def test_channel_without_pongs_is_not_live(
    valkey: Redis, monkeypatch: pytest.MonkeyPatch
) -> None:
    clock = Clock()
    monkeypatch.setattr(channel_module, "time", clock)
    channel = make_worker(valkey).channel
    assert not channel.is_live
    channel.handle({"type": "pong"})
    clock.now += channel_module.LIVE_SECONDS - 0.1
    assert channel.is_live
    channel.handle({"type": "message", "data": b"tag"})
    clock.now += 0.2
    assert not channel.is_live
