"""Two simulated processes, a model of the database, a real Valkey, and their possible faults.

Almost every public method of `World` is a step of a test, and ends with a check of the guarantees.
"""

import asyncio
from collections.abc import Callable, Sequence
from contextlib import suppress
from functools import partial
from typing import Any

from redis.exceptions import ReadOnlyError

from coherent_cache.store import Store
from tests.coherent_cache import guarantees
from tests.coherent_cache.guarantees import BrokenGuarantee, Read
from tests.coherent_cache.harness import MAX_LOGGED_TAGS, Harness
from tests.coherent_cache.model_database import KEYS, Change, Database, RequiredVersions
from tests.coherent_cache.model_outbox import Outbox
from tests.coherent_cache.stepped_process import Command, Process, WriteRefusals
from tests.coherent_cache.worker import CONFIG

SCRIPTS = ("LEASE", "FILL", "RELEASE", "INVALIDATE")
WRITES = (*SCRIPTS, "PROBE")
MAX_STEPS = 30  # of one process that runs alone
POLL_SECONDS = 0.5
BOUND_SECONDS = 2  # from the acknowledgement of a refused change until every read must show it


class World:
    """Begins with an empty Valkey and two processes that have received every message.

    A read must show what is `acknowledged`, and a valid entry what is `invalidated`. A change whose
    invalidation was refused becomes `overdue` after BOUND_SECONDS. Then every read must show it.
    """

    def __init__(self, harness: Harness) -> None:
        self._run, self._clock, self._valkey = harness.run, harness.clock, harness.valkey
        self._run(self._valkey.flushdb())
        self.database = Database()
        self.acknowledged, self.invalidated, self.overdue = (RequiredVersions() for _ in range(3))
        self.unacknowledged: list[Change] = []
        self.refused_changes: list[tuple[Change, float]] = []  # with the time when they are overdue
        self.refusals = WriteRefusals()
        self.outbox = Outbox(harness.clock, on_expired=self.invalidated.add)
        self.processes = [self._start(), self._start()]
        self.reads: list[Read] = []
        self.sent: list[Command] = []
        self._observer, self._writer = Store(self._valkey, CONFIG), Store(self._valkey, CONFIG)
        self._invalidate_script: Any = self._writer._invalidate_script
        for store in (self._writer, *(process.store for process in self.processes)):
            store._invalidate_script = self._send_invalidate

    def _start(self) -> Process:
        process = Process(self._valkey, self.refusals, self.outbox)
        self._run(process.relay.run_once())
        return process

    def read(self, process: int, key: str) -> None:
        """Begin a read."""
        reader, required = self.processes[process], self.acknowledged.copy()
        task = self._call(lambda: reader.read(key, partial(self.database.load, key)))
        self.reads.append(Read(reader, task, required))

    def pending(self, process: int) -> list[Command]:
        """Return the commands whose answers have not reached the process."""
        return self.processes[process].store.pending

    def send(self, command: Command, times: int = 1) -> None:
        """Run a command, but do not deliver its answer. Of several answers, the last counts."""
        answers = [self._run(command.send()) for _ in range(times)]
        if command.name in SCRIPTS:
            self.sent.append(command)
        if command.name == "LEASE" and answers[0] and not answers[-1]:
            raise BrokenGuarantee(f"A LEASE that was sent repeatedly was answered with {answers}.")
        self.check()

    def receive(self, command: Command) -> None:
        """Deliver a command's answer. Send the command first if necessary."""
        if not command.is_sent:
            self.send(command)
        self._call(command.receive)
        self.check()

    def run(self, process: int, until: str = "") -> None:
        """Let one process run alone, until its next command has the name `until`."""
        for _ in range(MAX_STEPS):
            waiting = [command for command in self.pending(process) if command.name != until]
            if not waiting:
                break
            self.receive(waiting[0])
        self.check()

    def fail_a_load(self, process: int) -> None:
        for command in [command for command in self.pending(process) if command.name == "LOAD"]:
            self._call(partial(command.fail, LookupError()))
        self.check()

    def cancel_a_read(self, process: int) -> None:
        """Cancel the first read of a process, if there is one."""
        waiting = [read for read in self.reads if read.process is self.processes[process]]
        if waiting:
            self._call(waiting[0].task.cancel)
        self.check()

    def write(self, row: int, *, is_shown: bool = True) -> Change:
        """Commit a change. Its writer may crash now, and a relay then invalidates it later."""
        change = self.database.write(row, is_shown=is_shown)
        self.outbox.insert(change)
        self.unacknowledged.append(change)
        return change

    def invalidate(self, change: Change, process: int = 1) -> None:
        """Run INVALIDATE, and acknowledge the change even if Valkey refused the invalidation."""
        self.unacknowledged = [other for other in self.unacknowledged if other != change]
        writer = self.processes[process]
        try:
            self._run(self._writer.invalidate(change.tags))
        except ReadOnlyError as refusal:
            self.refused_changes.append((change, self._clock.now + BOUND_SECONDS))
            writer.trust.note_failure(refusal)
            writer.memory.invalidate([*change.tags])
        else:
            self.acknowledged.add(change)
            self.outbox.delete_change(change)
            writer.invalidate_own_memory(change)
        self.check()

    def change(self, row: int) -> None:
        """Commit, invalidate and acknowledge a change."""
        self.invalidate(self.write(row))

    async def _send_invalidate(self, keys: list[str], args: list[Any]) -> None:
        tags = set(args[3].split("\n"))

        async def publish() -> None:
            self.refusals.check("INVALIDATE")
            await self._invalidate_script(keys=keys, args=args)
            for change, _ in self.outbox.rows.values():
                if tags.issuperset(change.tags):
                    self.invalidated.add(change)
            for process in self.processes:
                process.publish(args[3].encode(), self.invalidated)

        self.refusals.check("INVALIDATE")
        command = Command("INVALIDATE", publish)
        self.sent.append(command)
        await command.send()

    def repeat(self, command: Command) -> None:
        """Deliver a script to Valkey once more, however late, with the same arguments."""
        self._run(command.send())
        self.check()

    def last_sent(self, name: str) -> Command:
        return next(command for command in reversed(self.sent) if command.name == name)

    def evict(self, name: str) -> None:
        self._run(self._valkey.delete(f"{self._observer.prefix}{name}"))
        self.check()

    def damage_entry(self, key: str, old: bytes, new: bytes) -> None:
        name = f"{self._observer.prefix}e:r:{key}"
        stored: Any = self._run(self._valkey.get(name))
        assert stored.count(old) == 1
        self._run(self._valkey.set(name, stored.replace(old, new)))
        self.check()

    def reset_log_counters(self) -> None:
        log: Any = {"n": 0, "floor": 0}
        self._run(self._valkey.hset(f"{self._observer.prefix}log", mapping=log))
        self.check()

    def expire_leases(self) -> None:
        """Remove every lease, as if three seconds had passed."""
        for key in KEYS:
            entry: Any = self._run(self._valkey.get(f"{self._observer.prefix}e:r:{key}"))
            if entry and entry[:1] == b"L":
                self.evict(f"e:r:{key}")

    def flush(self) -> None:
        self._run(self._valkey.flushdb())
        self.check()

    def trim_log(self) -> None:
        """Invalidate so many other tags that the log is trimmed."""
        with suppress(ReadOnlyError):
            self._run(self._writer.invalidate([f"other:{n}" for n in range(MAX_LOGGED_TAGS)]))
        self.check()

    def refuse(self, *writes: str) -> None:
        """Let Valkey refuse these writes from now on, and no others."""
        self.refusals.refused = writes

    def deliver(self, process: int) -> None:
        self.processes[process].deliver()
        self.check()

    def reconnect(self, process: int) -> None:
        self.processes[process].reconnect(self.invalidated)

    def wait(
        self, seconds: float, suspended: Sequence[int] = (), *, poll_seconds: float = POLL_SECONDS
    ) -> None:
        """Let time pass. Meanwhile, the processes that are not suspended poll the outbox."""
        until = self._clock.now + seconds
        while self._clock.now < until:
            self._pass_time(poll_seconds, suspended)

    def _pass_time(self, seconds: float, suspended: Sequence[int]) -> None:
        self._clock.now += seconds
        for change, due in [one for one in self.refused_changes if one[1] <= self._clock.now]:
            self.refused_changes.remove((change, due))
            self.acknowledged.add(change)
            self.overdue.add(change)
        for number, process in enumerate(self.processes):
            if number not in suspended:
                process.pong()
                self._run(process.relay.run_once())
            self.check()

    def kill(self, process: int) -> None:
        """Kill a process, and start another one in its place."""
        self._call(self.processes[process].die)
        self.processes[process] = self._start()
        self.processes[process].store._invalidate_script = self._send_invalidate
        self.processes[process].received = self.invalidated.copy()

    def close(self) -> None:
        for process in self.processes:
            self._call(process.die)
        self._run(self._finish_reads())

    async def _finish_reads(self) -> None:
        # Outside of a coroutine, `gather` without tasks would create a loop and never close it.
        await asyncio.gather(*(read.task for read in self.reads), return_exceptions=True)

    def check(self) -> None:
        guarantees.check_answers(self.reads, self.database)
        guarantees.check_memories(self.processes, self.database, self.overdue)
        guarantees.check_valkey(self._run(self._look_up_all()), self.database, self.invalidated)

    async def _look_up_all(self) -> list[Any]:
        return await asyncio.gather(*map(self._observer.look_up, KEYS))

    def _call(self, step: Callable[[], Any]) -> Any:
        async def call() -> Any:
            return step()

        return self._run(call())
