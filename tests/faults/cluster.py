"""A Valkey cluster: three primaries, and a replica of the primary that owns the cache's slot.

The other two primaries hold no data. They only vote in a failover.
"""

import asyncio
import secrets
from collections.abc import AsyncIterator
from contextlib import AsyncExitStack, asynccontextmanager
from dataclasses import dataclass
from pathlib import Path

from redis.crc import key_slot

from app.infra.cache.settings import CacheSettings
from tests.faults.load import free_port
from tests.faults.valkey import Valkey, open_own_valkey

SLOT = key_slot(b"{%s}" % CacheSettings().namespace.encode())
RANGES = [(0, 5460), (5461, 10922), (10923, 16383)]
# A failover takes this long, and then a vote. In production this is often 15 s.
NODE_TIMEOUT_MILLISECONDS = 1000
NODE = """
dir {folder}
cluster-enabled yes
cluster-port {bus}
cluster-config-file nodes.conf
cluster-node-timeout {timeout}
cluster-require-full-coverage no
cluster-replica-validity-factor 0
repl-diskless-sync-delay 0
primaryauth {password}
"""


@dataclass
class Cluster:
    """The nodes. Each can be killed, frozen and started again."""

    nodes: list[Valkey]

    @property
    def url(self) -> str:
        """The address of the node that never owns the slot, so that it can always be reached."""
        first, last = RANGES[0]
        return self.nodes[1 if first <= SLOT <= last else 0].url

    async def owner(self) -> Valkey:
        """Return the primary that owns the slot of the cache."""
        async with asyncio.timeout(20):
            while True:
                port = await self._port_of_owner()
                if port in self._ports and self._ports[port].server.is_running:
                    return self._ports[port]
                await asyncio.sleep(0.05)

    async def until_replicated(self) -> Valkey:
        """Wait until the owner's replica has all data of the owner, and return the replica."""
        async with asyncio.timeout(20):
            while True:
                for node in self.nodes:
                    if node.server.is_running:
                        state = await node.ask("INFO", "replication")
                        if state["role"] == "slave" and state["master_link_status"] == "up":
                            return node
                await asyncio.sleep(0.05)

    @property
    def _ports(self) -> dict[int, Valkey]:
        return {node.server.port: node for node in self.nodes}

    async def _port_of_owner(self) -> int | None:
        [witness] = [node for node in self.nodes if node.url == self.url]
        for first, last, owner, *_ in await witness.ask("CLUSTER", "SLOTS"):
            if first <= SLOT <= last:
                return int(owner[1])
        return None


@asynccontextmanager
async def open_cluster(folder: Path) -> AsyncIterator[Cluster]:
    """Start four nodes and make them one cluster."""
    password = secrets.token_hex(24)
    async with AsyncExitStack() as stack:
        nodes, buses = list[Valkey](), list[int]()
        for number in range(4):
            home, bus = folder / str(number), free_port()
            home.mkdir(parents=True)
            more = NODE.format(
                folder=home, bus=bus, timeout=NODE_TIMEOUT_MILLISECONDS, password=password
            )
            nodes.append(stack.enter_context(open_own_valkey(home, password, more)))
            buses.append(bus)
        await _form(nodes, buses)
        cluster = Cluster(nodes)
        await cluster.until_replicated()
        yield cluster


async def _form(nodes: list[Valkey], buses: list[int]) -> None:
    for node, (first, last) in zip(nodes, RANGES, strict=False):
        await node.ask("CLUSTER", "ADDSLOTSRANGE", str(first), str(last))
    for number, node in enumerate(nodes[:3]):
        await node.ask("CLUSTER", "SET-CONFIG-EPOCH", str(number + 1))
    for node, bus in zip(nodes[1:], buses[1:], strict=True):
        await nodes[0].ask("CLUSTER", "MEET", "127.0.0.1", str(node.server.port), str(bus))
    await _until(nodes, "cluster_known_nodes", "4")
    await _until(nodes[:3], "cluster_state", "ok")
    [owner] = [node for node, (a, b) in zip(nodes, RANGES, strict=False) if a <= SLOT <= b]
    await nodes[3].ask("CLUSTER", "REPLICATE", (await owner.ask("CLUSTER", "MYID")).decode())


async def _until(nodes: list[Valkey], field: str, value: str) -> None:
    async with asyncio.timeout(20):
        for node in nodes:
            while f"{field}:{value}\r".encode() not in await node.ask("CLUSTER", "INFO"):
                await asyncio.sleep(0.05)
