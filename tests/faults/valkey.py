"""A Valkey that a test may kill, start again on the same port, freeze and fill."""

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
    """Its address and its process. Faults reach this process and nothing else."""

    url: str
    server: Server

    def kill(self) -> None:
        """Kill Valkey. All of its data is lost."""
        self.server.process.kill()
        self.server.process.wait()

    def start_again(self) -> None:
        """Start Valkey on the same port, empty. It answers a moment later."""
        command = self.server.process.args
        assert isinstance(command, list)
        process = spawn(command, output=subprocess.DEVNULL)
        self.server = replace(self.server, process=process)

    def freeze(self) -> None:
        """Stop the process (SIGSTOP): connections stay open, and no reply comes."""
        os.kill(self.server.process.pid, signal.SIGSTOP)

    def thaw(self) -> None:
        with suppress(ProcessLookupError):
            os.kill(self.server.process.pid, signal.SIGCONT)

    async def ask(self, *command: str) -> Any:
        """Send a command on a connection of its own."""
        async with Redis.from_url(self.url) as client:
            return await client.execute_command(*command)

    async def returned(self) -> None:
        """Wait until Valkey answers."""
        while True:
            with suppress(redis.RedisError, OSError):
                await self.ask("PING")
                return
            await asyncio.sleep(0.02)

    async def reset(self) -> None:
        """Restore the state of the first start."""
        self.thaw()
        if not self.server.is_running:
            self.start_again()
        await self.returned()
        for name, value in DEFAULTS.items():
            await self.ask("CONFIG", "SET", name, value)
        await self.ask("FLUSHALL")


@contextmanager
def open_own_valkey(folder: Path, password: str = "", more: str = "") -> Iterator[Valkey]:
    """Start Valkey. It exits with this context, or with the process that runs the tests."""
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
