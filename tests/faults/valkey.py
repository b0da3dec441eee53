"""A Valkey of the test's own: to be killed, started again on its port, frozen and filled."""

import asyncio
import os
import secrets
import signal
import subprocess
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import redis
from redis.asyncio import Redis

from dev.server_process import Server, spawn, start_on_free_port
from dev.valkey import CONFIGURATION, valkey_command, valkey_program
from tests.faults.postgres import LEASH

DEFAULTS = {"maxmemory": "256mb", "maxmemory-policy": "allkeys-lru"}


@dataclass
class Valkey:
    """Where it is, and its process. Faults reach that process and nothing else."""

    url: str
    server: Server

    def kill(self) -> None:
        """End it without a word; whatever it held is gone."""
        self.server.process.kill()
        self.server.process.wait()

    def start_again(self) -> None:
        """Start it on the same port, empty. It answers a moment later."""
        command = self.server.process.args
        assert isinstance(command, list)
        process = spawn(command, output=subprocess.DEVNULL)
        self.server = replace(self.server, process=process)

    def freeze(self) -> None:
        """Stop it in the middle of whatever it does: connections stay, answers do not come."""
        os.kill(self.server.process.pid, signal.SIGSTOP)

    def thaw(self) -> None:
        """Let it go on."""
        with suppress(ProcessLookupError):
            os.kill(self.server.process.pid, signal.SIGCONT)

    async def ask(self, *command: str) -> Any:
        """Send a command, on a connection of its own."""
        async with Redis.from_url(self.url) as client:
            return await client.execute_command(*command)  # type: ignore[no-untyped-call]

    async def returned(self) -> None:
        """Return when it answers."""
        while True:
            with suppress(redis.RedisError, OSError):
                await self.ask("PING")
                return
            await asyncio.sleep(0.02)

    async def reset(self) -> None:
        """Make it as it was at its start."""
        self.thaw()
        if not self.server.is_running:
            self.start_again()
        await self.returned()
        for name, value in DEFAULTS.items():
            await self.ask("CONFIG", "SET", name, value)
        await self.ask("FLUSHALL")


@contextmanager
def open_own_valkey(folder: Path, password: str = "", more: str = "") -> Iterator[Valkey]:
    """Start it; it ends with this context, or with whoever runs the tests."""
    password = password or secrets.token_hex(24)
    command = valkey_command(folder, CONFIGURATION.format(password=password) + more)

    def url(port: int) -> str:
        return f"redis://:{password}@127.0.0.1:{port}/0"

    def answers(server: Server) -> bool:
        with suppress(redis.RedisError), redis.Redis.from_url(url(server.port)) as client:
            return bool(client.ping())
        return False

    server = start_on_free_port(
        replace(valkey_program(folder), prefix=LEASH),
        lambda port: [*command, str(port)],
        answers,
    )
    valkey = Valkey(url(server.port), server)
    try:
        yield valkey
    finally:
        valkey.thaw()
        valkey.server.stop()
