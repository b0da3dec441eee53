"""Two processes, a database, a real Valkey, and everything that can go wrong between them.

Every method of `World` is one step, taken by the state machine (test_model.py) or by a short
history (test_mutations.py). After each it checks that nobody was answered, or could be, with less
than was acknowledged.
"""

import asyncio
from collections.abc import Callable, Sequence
from contextlib import suppress
from dataclasses import dataclass
from functools import partial
from itertools import count
from typing import Any

from redis.exceptions import ReadOnlyError

from app.infra.cache import outbox
from app.infra.cache.entry import Entry
from app.infra.cache.outbox import Look
from app.infra.cache.read_through import Answer
from app.infra.cache.store import Store
from tests.infra.cache.database import KEYS, Change, Database, Seen
from tests.infra.cache.laboratory import FEW_LOGGED_TAGS, Clock, Laboratory
from tests.infra.cache.wire import Command, Mood, Process
from tests.infra.cache.worker import NAMES

SCRIPTS = ("LEASE", "FILL", "RELEASE", "INVALIDATE")
WRITES = (*SCRIPTS, "PROBE")
MOST_STEPS = 30  # that a process takes when it runs alone
LOOK_SECONDS = 0.5
BOUND_SECONDS = 2  # between an acknowledgement and the reads that show it, if Valkey refused


class Wrong(AssertionError):
    """The cache broke its promise."""


class LoadError(Exception):
    """The database refused."""


@dataclass(frozen=True)
class Read:
    """A read under way, and what was acknowledged before it began."""

    process: Process
    task: asyncio.Task[Answer]
    least: Seen


class Outbox(outbox.Outbox):
    """The table of the outbox, by the clock of the laboratory."""

    def __init__(self, clock: Clock, given_up: Callable[[Change], None]) -> None:
        self._clock, self._given_up, self._ids = clock, given_up, count(1)
        self.rows: dict[int, tuple[Change, float]] = {}

    def note(self, change: Change) -> None:
        """Write a row, which is committed with the change."""
        self.rows[next(self._ids)] = change, self._clock.now

    def done(self, change: Change) -> None:
        """Delete the row of a change."""
        self.rows = {id_: row for id_, row in self.rows.items() if row[0] != change}

    async def look(self) -> Look:
        now = self._clock.now
        rows = self.rows.items()
        return Look(now, [outbox.Change(id_, row.tags, now - at) for id_, (row, at) in rows])

    async def delete(self, ids: Sequence[int]) -> None:
        for id_ in ids:
            self.rows.pop(id_, None)

    async def delete_expired(self, age_seconds: float) -> int:
        rows = self.rows.items()
        expired = [id_ for id_, (_, at) in rows if at < self._clock.now - age_seconds]
        for id_ in expired:
            self._given_up(self.rows.pop(id_)[0])
        return len(expired)


class World:
    """Begins with an empty Valkey, and two processes that have heard of everything.

    A read must show `acknowledged`, a valid entry `invalidated`. They are the same but for changes
    whose invalidation was refused: a read must show those after BOUND_SECONDS, `overdue`.
    """

    def __init__(self, laboratory: Laboratory) -> None:
        self._laboratory, self._do, self._valkey = laboratory, laboratory.do, laboratory.valkey
        self._do(self._valkey.flushdb())
        self.database = Database()
        self.acknowledged, self.invalidated, self.overdue = Seen(), Seen(), Seen()
        self.not_acknowledged: list[Change] = []
        self.late: list[tuple[Change, float]] = []  # and when it has to be seen
        self.mood = Mood()
        self.outbox = Outbox(laboratory.clock, self.invalidated.add)
        self.processes = [self._start(), self._start()]
        self.reads: list[Read] = []
        self.sent: list[Command] = []
        self._observer = Store(self._valkey, *NAMES)
        self._writer = Store(self._valkey, *NAMES)
        self._invalidate_script: Any = self._writer._invalidate
        for store in (self._writer, *(process.store for process in self.processes)):
            store._invalidate = self._send_invalidate

    def _start(self) -> Process:
        process = Process(self._valkey, self.mood, self.outbox)
        self._do(process.relay.turn())
        return process

    # Readers

    def read(self, process: int, key: str) -> None:
        """Begin a read."""
        reader, least = self.processes[process], self.acknowledged.copy()
        task = self._at_once(lambda: reader.read(key, partial(self.database.load, key)))
        self.reads.append(Read(reader, task, least))

    def pending(self, process: int) -> list[Command]:
        """What a process has asked for, and not been told."""
        return self.processes[process].store.pending

    def send(self, command: Command, times: int = 1) -> None:
        """Let a command be done, its answer not yet come. The last answer counts."""
        answers = [self._do(command.send()) for _ in range(times)]
        if command.name in SCRIPTS:
            self.sent.append(command)
        if command.name == "LEASE" and answers[0] and answers[0][0] != answers[-1][0]:
            raise Wrong(f"answers to one LEASE sent again and again: {answers}")
        self.check()

    def go_on(self, command: Command) -> None:
        """Let a command's answer come."""
        if not command.is_sent:
            self.send(command)
        self._at_once(command.receive)
        self.check()

    def run(self, process: int, until: str = "") -> None:
        """Let a process alone run, until it is about to send a command of that name."""
        for _ in range(MOST_STEPS):
            waiting = [command for command in self.pending(process) if command.name != until]
            if not waiting:
                self.check()
                return
            self.go_on(waiting[0])

    def fail_a_load(self, process: int) -> None:
        """Let the database refuse, if it was asked."""
        for command in [command for command in self.pending(process) if command.name == "LOAD"]:
            self._at_once(partial(command.fail, LoadError()))
        self.check()

    def lose_a_reader(self, process: int) -> None:
        """Let the first who waits lose patience."""
        waiting = [read for read in self.reads if read.process is self.processes[process]]
        if waiting:
            self._at_once(waiting[0].task.cancel)
        self.check()

    # Writers

    def write(self, row: int, *, shown: bool = True) -> Change:
        """Commit a change. Its writer may die now: somebody else invalidates it, later."""
        change = self.database.write(row, shown=shown)
        self.outbox.note(change)
        self.not_acknowledged.append(change)
        return change

    def invalidate(self, change: Change, process: int = 1) -> None:
        """Run INVALIDATE, and acknowledge the change, whether it was refused or not."""
        self.not_acknowledged = [other for other in self.not_acknowledged if other != change]
        try:
            self._do(self._writer.invalidate(change.tags))
        except ReadOnlyError as refusal:
            self.late.append((change, self._laboratory.clock.now + BOUND_SECONDS))
            self.processes[process].trust.note_failure(refusal)
            self.processes[process].memory.drop([*change.tags])
        else:
            self.acknowledged.add(change)
            self.outbox.done(change)
            self.processes[process].drop_own(change)
        self.check()

    def change(self, row: int) -> None:
        """Write, and acknowledge it."""
        self.invalidate(self.write(row))

    async def _send_invalidate(self, keys: list[str], args: list[Any]) -> None:
        tags = set(args[3].split("\n"))

        async def publish() -> None:
            self.mood.accept("INVALIDATE")
            await self._invalidate_script(keys=keys, args=args)
            for change, _ in self.outbox.rows.values():
                if tags.issuperset(change.tags):
                    self.invalidated.add(change)
            for process in self.processes:
                process.publish(args[3].encode(), self.invalidated)

        self.mood.accept("INVALIDATE")
        command = Command("INVALIDATE", publish)
        self.sent.append(command)
        await command.send()

    # What goes wrong

    def repeat(self, command: Command) -> None:
        """Let a script arrive once more, however late, with the same arguments."""
        self._do(command.send())
        self.check()

    def last(self, name: str) -> Command:
        """Return the last script of that name that was sent."""
        return next(command for command in reversed(self.sent) if command.name == name)

    def evict(self, name: str) -> None:
        """Let Valkey forget a key."""
        self._do(self._valkey.delete(f"{self._observer.prefix}{name}"))
        self.check()

    def damage(self, key: str, old: bytes, new: bytes) -> None:
        """Let Valkey's memory fail, in one place of a stored entry."""
        name = f"{self._observer.prefix}e:r:{key}"
        stored: Any = self._do(self._valkey.get(name))
        assert stored.count(old) == 1
        self._do(self._valkey.set(name, stored.replace(old, new)))
        self.check()

    def damage_log(self) -> None:
        """The same, where the log counts."""
        log: Any = {"n": 0, "floor": 0}
        self._do(self._valkey.hset(f"{self._observer.prefix}log", mapping=log))
        self.check()

    def expire_leases(self) -> None:
        """Let three seconds pass for Valkey's leases, if there are any."""
        for key in KEYS:
            entry: Any = self._do(self._valkey.get(f"{self._observer.prefix}e:r:{key}"))
            if entry and entry[:1] == b"L":
                self.evict(f"e:r:{key}")

    def flush(self) -> None:
        """Let Valkey forget everything."""
        self._do(self._valkey.flushdb())
        self.check()

    def trim_log(self) -> None:
        """Let others change so much that the log is trimmed."""
        with suppress(ReadOnlyError):
            self._do(self._writer.invalidate([f"other:{n}" for n in range(FEW_LOGGED_TAGS)]))
        self.check()

    def refuse(self, *writes: str) -> None:
        """Let Valkey refuse these writes from now on, or none."""
        self.mood.refused = writes

    def deliver(self, process: int) -> None:
        """Let a process hear its oldest message."""
        self.processes[process].deliver()
        self.check()

    def subscribe(self, process: int) -> None:
        """Connect a process's channel again."""
        self.processes[process].subscribe(self.invalidated)

    def wait(self, seconds: float = 1, stopped: Sequence[int] = ()) -> None:
        """Let time pass. The processes that are not stopped look at the outbox meanwhile."""
        until = self._laboratory.clock.now + seconds
        while self._laboratory.clock.now < until:
            self._pass_time(LOOK_SECONDS, stopped)

    def skip(self, seconds: float, stopped: Sequence[int]) -> None:
        """Let a long time pass in which there is one look alone."""
        self._pass_time(seconds, stopped)

    def _pass_time(self, seconds: float, stopped: Sequence[int]) -> None:
        self._laboratory.clock.now += seconds
        for change, due in [late for late in self.late if late[1] <= self._laboratory.clock.now]:
            self.late.remove((change, due))
            self.acknowledged.add(change)
            self.overdue.add(change)
        for number, process in enumerate(self.processes):
            if number not in stopped:
                process.pong()
                self._do(process.relay.turn())
            self.check()

    def kill(self, process: int) -> None:
        """End a process, and start another in its place."""
        self._at_once(self.processes[process].die)
        self.processes[process] = self._start()
        self.processes[process].store._invalidate = self._send_invalidate
        self.processes[process].heard = self.invalidated.copy()

    def close(self) -> None:
        """End everything that is under way."""
        for process in self.processes:
            self._at_once(process.die)
        self._do(self._all_answered())

    async def _all_answered(self) -> None:
        # Outside of a coroutine, `gather` of no tasks would make an event loop that nobody closes.
        await asyncio.gather(*(read.task for read in self.reads), return_exceptions=True)

    # What must be true

    def check(self) -> None:
        """Check everything that was answered, or would be now."""
        self.check_answers()
        self.check_memories()
        self.check_valkey()

    def check_answers(self) -> None:
        """A read shows what was acknowledged before it began."""
        for read in [read for read in self.reads if read.task.done()]:
            self.reads.remove(read)
            if read.task.cancelled() or read.task.exception() is not None:
                continue
            if self.database.is_old(read.task.result().entry, read.least):
                raise Wrong(f"answered with {read.task.result()}, acknowledged was {read.least}")

    def check_memories(self) -> None:
        """A memory shows all that its process has heard of, and what was refused long ago."""
        for process in self.processes:
            for key in KEYS:
                entry = process.reader.remembered(key)
                for least in (process.heard, self.overdue):
                    if entry is not None and self.database.is_old(entry, least):
                        raise Wrong(f"remembered {entry}, and not {least}")

    def check_valkey(self) -> None:
        """A valid entry shows all that is invalidated."""
        for entry in self._do(self._look_up_all()):
            if isinstance(entry, Entry) and self.database.is_old(entry, self.invalidated):
                raise Wrong(f"stored is {entry}, invalidated was {self.invalidated}")

    async def _look_up_all(self) -> list[Any]:
        return await asyncio.gather(*map(self._observer.look_up, KEYS))

    def _at_once(self, step: Callable[[], Any]) -> Any:
        async def call() -> Any:
            return step()

        return self._do(call())
