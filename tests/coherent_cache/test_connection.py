"""One connection for all commands of a process: each gets its own reply, or an error in time."""

import asyncio
import gc
import socket
import struct
from collections.abc import AsyncIterator
from pathlib import Path
from urllib.parse import urlsplit

import pytest
from redis.asyncio import Redis
from redis.exceptions import AuthenticationError, NoPermissionError, NoScriptError, RedisError
from redis.exceptions import ConnectionError as ConnectionLost
from redis.exceptions import TimeoutError as CommandTimeout

from coherent_cache.client import MultiplexedRedis, open_server
from coherent_cache.config import CacheConfig
from coherent_cache.connection import open_connection
from tests.coherent_cache.valkey_user import ValkeyUser
from tests.coherent_cache.worker import Proxy

PATIENT, IMPATIENT = 30.0, 0.3  # seconds


@pytest.fixture
async def far(proxy: Proxy) -> AsyncIterator[MultiplexedRedis]:
    """A client that reaches Valkey through the proxy."""
    await proxy.start()
    async with MultiplexedRedis(proxy.url, PATIENT) as client:
        yield client


@pytest.fixture
async def impatient(proxy: Proxy) -> AsyncIterator[MultiplexedRedis]:
    await proxy.start()
    async with MultiplexedRedis(proxy.url, IMPATIENT) as client:
        yield client


async def connections_of(valkey: Redis, client: MultiplexedRedis) -> list[str]:
    """Return the ids of the connections on which `client` sends commands."""
    ids = await asyncio.gather(*(client.client_id() for _ in range(50)))
    known = {str(found["id"]) for found in await valkey.client_list()}
    return sorted({str(found) for found in ids} & known)


async def test_commands_of_many_tasks_share_one_connection_and_get_their_own_replies(
    valkey: Redis, far: MultiplexedRedis
) -> None:
    await valkey.mset({f"key{number}": number for number in range(500)})
    found = await asyncio.gather(*(far.get(f"key{number}") for number in range(500)))
    assert found == [b"%d" % number for number in range(500)]
    assert len(await connections_of(valkey, far)) == 1


async def test_cancelled_commands_leave_the_replies_of_others_in_order(
    valkey: Redis, far: MultiplexedRedis
) -> None:
    await valkey.mset({f"key{number}": number for number in range(100)})
    connection = await far.client_id()
    tasks = [asyncio.ensure_future(far.get(f"key{number}")) for number in range(100)]
    await asyncio.sleep(0)  # all are sent
    for task in tasks[::2]:
        task.cancel()
    found = await asyncio.gather(*tasks, return_exceptions=True)
    assert found[1::2] == [b"%d" % number for number in range(1, 100, 2)]
    assert await far.client_id() == connection


async def test_large_values_arrive_whole(far: MultiplexedRedis) -> None:
    value = bytes(range(256)) * 20_000
    await far.set("large", value)
    assert await far.mget("large", "missing", "large") == [value, None, value]


async def test_a_command_on_a_closed_connection_is_sent_again(
    valkey: Redis, far: MultiplexedRedis
) -> None:
    await far.ping()
    [connection] = await connections_of(valkey, far)
    await valkey.client_kill_filter(_id=connection)
    assert await far.incr("counter") == 1


async def test_commands_in_flight_are_sent_again_when_the_connection_is_lost(
    far: MultiplexedRedis, proxy: Proxy
) -> None:
    await far.ping()
    proxy.delay_seconds = 3_600
    waiting = asyncio.gather(*(far.set(f"key{number}", number) for number in range(20)))
    await asyncio.sleep(0)
    proxy.stop()
    proxy.delay_seconds = 0
    await proxy.start()
    assert await waiting == [True] * 20


async def test_without_a_reply_in_time_the_next_command_has_a_new_connection(
    impatient: MultiplexedRedis, proxy: Proxy
) -> None:
    await impatient.set("key", "value")
    proxy.go_silent()
    with pytest.raises(CommandTimeout):
        await impatient.get("key")
    assert await retried(impatient, "key") == b"value"


async def test_a_late_reply_is_not_taken_for_that_of_another_command(
    valkey: Redis, impatient: MultiplexedRedis, proxy: Proxy
) -> None:
    await valkey.mset({"first": 1, "second": 2})
    await impatient.ping()
    proxy.delay_seconds = 2 * IMPATIENT
    with pytest.raises(CommandTimeout):
        await impatient.get("first")
    proxy.delay_seconds = 0
    assert await retried(impatient, "second") == b"2"


async def test_steady_traffic_does_not_keep_a_dead_connection(
    impatient: MultiplexedRedis, proxy: Proxy
) -> None:
    await impatient.set("key", "value")
    proxy.go_silent()
    async with asyncio.timeout(60), asyncio.TaskGroup() as commands:
        running: list[asyncio.Task[object]] = []
        while not any(task.done() and task.result() for task in running):
            running.append(commands.create_task(value_or_none(impatient, "key")))
            await asyncio.sleep(IMPATIENT / 6)


async def value_or_none(client: MultiplexedRedis, key: str) -> object:
    try:
        return await client.get(key)
    except CommandTimeout:
        return None


async def retried(client: MultiplexedRedis, key: str) -> object:
    """Read a key. A busy machine may exceed the limit of a client that is impatient."""
    for _ in range(50):
        try:
            return await client.get(key)
        except CommandTimeout:
            await asyncio.sleep(0.1)
    raise AssertionError("no reply")


async def test_all_that_wait_for_a_connection_share_its_failure(proxy: Proxy) -> None:
    """Otherwise the last of them would wait for as many timeouts as there are commands."""
    accepted = 0

    async def accept_and_say_nothing(
        reader: asyncio.StreamReader, writer: asyncio.StreamWriter
    ) -> None:
        nonlocal accepted
        accepted += 1
        await reader.read()
        writer.close()

    server = await asyncio.start_server(accept_and_say_nothing, "127.0.0.1", 0)
    port = server.sockets[0].getsockname()[1]
    url = f"redis://:secret@127.0.0.1:{port}/0"  # so there is something to wait for
    async with server, MultiplexedRedis(url, IMPATIENT) as client:
        found = await asyncio.gather(*(client.get("a") for _ in range(20)), return_exceptions=True)
    assert all(isinstance(error, CommandTimeout) for error in found), found
    assert accepted == 1


async def test_no_server_is_a_connection_error(proxy: Proxy) -> None:
    async with MultiplexedRedis(proxy.url, PATIENT) as client:
        with pytest.raises(ConnectionLost):
            await client.get("a")
        await proxy.start()
        await client.set("a", 1)


async def test_what_is_not_valkey_is_a_connection_error() -> None:
    async def answer(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        await reader.read(100)
        writer.write(b"HTTP/1.1 400 Bad Request\r\n\r\n")
        writer.close()

    server = await asyncio.start_server(answer, "127.0.0.1", 0)
    url = f"redis://127.0.0.1:{server.sockets[0].getsockname()[1]}/0"
    async with server, MultiplexedRedis(url, PATIENT) as client:
        with pytest.raises(ConnectionLost):
            await client.get("a")


@pytest.mark.parametrize("login", ["", ":secret@"])
@pytest.mark.parametrize("is_read_first", [True, False])
async def test_a_server_that_refuses_all_connections_is_an_error_that_says_why(
    login: str, is_read_first: bool
) -> None:
    accepted = 0

    async def refuse(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        nonlocal accepted
        accepted += 1
        if is_read_first:
            await reader.read(100)
        writer.write(b"-ERR max number of clients reached\r\n")
        writer.close()

    server = await asyncio.start_server(refuse, "127.0.0.1", 0)
    url = f"redis://{login}127.0.0.1:{server.sockets[0].getsockname()[1]}/0"
    async with server, MultiplexedRedis(url, PATIENT) as client:
        async with asyncio.timeout(PATIENT):
            with pytest.raises(ConnectionLost, match="max number of clients"):
                await client.get("a")
    assert accepted <= 2


class OneServer:
    """A Valkey on a socket of its own, which resets its connection when told to."""

    def __init__(self) -> None:
        self.listener = socket.create_server(("127.0.0.1", 0))
        self.listener.setblocking(False)
        self.url = f"redis://127.0.0.1:{self.listener.getsockname()[1]}/0"
        self._loop = asyncio.get_running_loop()

    async def answer(self, commands: int) -> socket.socket:
        """Accept a connection and answer so many commands."""
        connection, _ = await self._loop.sock_accept(self.listener)
        while commands:
            found = (await self._loop.sock_recv(connection, 65_536)).count(b"PING")
            await self._loop.sock_sendall(connection, b"+PONG\r\n" * found)
            commands -= found
        return connection


async def test_commands_are_sent_again_after_a_reset_that_was_not_noticed_yet() -> None:
    server = OneServer()
    with server.listener:
        async with MultiplexedRedis(server.url, PATIENT) as client:
            _, connection = await asyncio.gather(client.ping(), server.answer(1))
            connection.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
            connection.close()
            found = asyncio.gather(*(client.ping() for _ in range(5)))
            with await server.answer(5):
                assert await found == [True] * 5


async def test_a_command_on_a_lost_connection_fails_at_once(config: CacheConfig) -> None:
    async with open_server(config) as client:
        connection = await open_connection(client.connection_pool, PATIENT)
        connection.close()
        await asyncio.sleep(0)  # until the loop has told the connection
        async with asyncio.timeout(PATIENT / 2):
            with pytest.raises(ConnectionLost):
                await connection.execute(("PING",))


async def test_a_connection_is_closed_when_nobody_waits_for_its_silent_server() -> None:
    """Otherwise a server that hangs leaves open connections behind, until there are too many."""
    server = OneServer()
    with server.listener:
        async with MultiplexedRedis(server.url, IMPATIENT) as client:
            first = asyncio.ensure_future(client.ping())
            connection = await server.answer(0)
            with connection:
                await asyncio.sleep(IMPATIENT / 2)
                second = asyncio.ensure_future(client.ping())
                with pytest.raises(CommandTimeout):
                    await first
                second.cancel()
                async with asyncio.timeout(PATIENT):
                    loop = asyncio.get_running_loop()
                    while await loop.sock_recv(connection, 65_536):
                        pass


async def test_a_failed_connection_that_nobody_waits_for_logs_nothing(proxy: Proxy) -> None:
    logged: list[object] = []
    loop = asyncio.get_running_loop()
    loop.set_exception_handler(lambda _, context: logged.append(context))
    async with MultiplexedRedis(proxy.url, PATIENT) as client:  # the proxy does not listen
        waiting = asyncio.ensure_future(client.get("a"))
        await asyncio.sleep(0)
        waiting.cancel()
        assert client._opening is not None
        await asyncio.wait({waiting, client._opening})  # nobody waits for the connection itself
        with pytest.raises(ConnectionLost):
            await client.get("a")
        with pytest.raises(ConnectionLost):
            await client.get("a")
    del waiting  # asyncio logs an exception that nobody retrieved when its task is collected
    gc.collect()
    loop.set_exception_handler(None)
    assert logged == []


@pytest.mark.parametrize("login", ["", ":secret@"])
async def test_closing_the_client_ends_the_commands_that_wait(login: str) -> None:
    accepted = 0

    async def say_nothing(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        nonlocal accepted
        accepted += 1
        await reader.read()
        writer.close()

    server = await asyncio.start_server(say_nothing, "127.0.0.1", 0)
    url = f"redis://{login}127.0.0.1:{server.sockets[0].getsockname()[1]}/0"
    async with server:
        client = MultiplexedRedis(url, PATIENT)
        waiting = asyncio.ensure_future(client.get("a"))
        while not accepted:
            await asyncio.sleep(0)
        await client.aclose()
        for command in (waiting, client.get("b")):
            with pytest.raises(ConnectionLost):
                await command
    assert accepted == 1


async def test_an_idle_connection_is_kept_alive(
    proxy: Proxy, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A firewall drops connections that are idle for minutes. The next command would time out."""
    loop, opened = asyncio.get_running_loop(), []
    create_connection = loop.create_connection

    async def record(*arguments: object, **options: object) -> object:
        found = await create_connection(*arguments, **options)  # type: ignore[call-overload]
        opened.append(found[0].get_extra_info("socket"))
        return found

    await proxy.start()
    monkeypatch.setattr(loop, "create_connection", record)
    async with MultiplexedRedis(proxy.url, PATIENT) as client:
        await client.ping()
        assert opened[0].getsockopt(socket.SOL_SOCKET, socket.SO_KEEPALIVE)
        assert opened[0].getsockopt(socket.IPPROTO_TCP, socket.TCP_KEEPIDLE) < 240


async def test_errors_have_the_classes_of_redis_py(far: MultiplexedRedis, valkey: Redis) -> None:
    await far.set("text", "text")
    with pytest.raises(NoScriptError):
        await far.evalsha("0" * 40, 0)
    with pytest.raises(RedisError, match="not an integer"):
        await far.incr("text")
    assert await far.get("text") == b"text"


@pytest.fixture
async def user(valkey: Redis, worker_id: str) -> AsyncIterator[ValkeyUser]:
    user = ValkeyUser(valkey, f"connection_{worker_id}")
    await user.allow_all_but("-incrby")
    yield user
    await user.delete()


async def test_user_and_password_come_from_the_url(
    config: CacheConfig, valkey: Redis, user: ValkeyUser
) -> None:
    async with MultiplexedRedis(user.url(config.valkey_url), PATIENT) as client:
        await client.set("key", "value")
        with pytest.raises(NoPermissionError):
            await client.incr("counter")
    assert await valkey.get("key") == b"value"


async def test_the_database_of_the_url_is_selected(config: CacheConfig) -> None:
    url = urlsplit(config.valkey_url)._replace(path="/9")
    async with MultiplexedRedis(url.geturl(), PATIENT) as client:
        assert (await client.client_info())["db"] == 9


async def test_a_wrong_password_is_an_error_and_not_tried_for_ever(
    config: CacheConfig, user: ValkeyUser
) -> None:
    url = user.url(config.valkey_url).replace(":password@", ":wrong@")
    async with MultiplexedRedis(url, PATIENT) as client:
        with pytest.raises(AuthenticationError) as raised:
            await client.get("key")
    assert "wrong@" not in str(raised.value)


async def test_a_unix_socket(config: CacheConfig, valkey: Redis, tmp_path: Path) -> None:
    there = urlsplit(config.valkey_url)

    async def forward(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        far_reader, far_writer = await asyncio.open_connection(there.hostname, there.port)
        while request := await reader.read(1_000):
            far_writer.write(request)
            writer.write(await far_reader.read(1_000))
        far_writer.close()
        writer.close()

    server = await asyncio.start_unix_server(forward, tmp_path / "valkey")
    url = f"unix://:{there.password}@{tmp_path / 'valkey'}"
    async with server, MultiplexedRedis(url, PATIENT) as client:
        assert await client.echo("hello") == b"hello"
