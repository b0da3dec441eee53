"""A model-based test: after any sequence of steps, no read shows less than was acknowledged.

To test a change of the protocol, run many more seeds than the suite does:

    MODEL_SEEDS=2000 pytest tests/coherent_cache/test_model.py --tb=native

Hypothesis runs random sequences of steps with the real code and a real Valkey. world.py defines the
steps, and guarantees.py defines what must hold after each of them. A seed stands for ten sequences,
which are always the same. Hypothesis shortens a sequence that fails, and prints its steps.
"""

import os
from collections.abc import Callable
from typing import Any

from hypothesis import HealthCheck, Phase, seed, settings
from hypothesis import strategies as st
from hypothesis.stateful import (
    RuleBasedStateMachine,
    precondition,
    rule,
    run_state_machine_as_test,
)

from tests.coherent_cache.harness import Harness
from tests.coherent_cache.model_database import ROWS
from tests.coherent_cache.world import WRITES, World

SEEDS = int(os.environ.get("MODEL_SEEDS", "6"))

SEQUENCES = settings(
    max_examples=10,  # later examples are mostly variations, so new seeds find more
    phases=(Phase.generate, Phase.shrink),
    stateful_step_count=150,
    deadline=None,
    database=None,
    suppress_health_check=list(HealthCheck),
)

processes = st.sampled_from((0, 1))
keys = st.sampled_from(("page", "item:1"))
rows = st.sampled_from(ROWS)
evictable = st.sampled_from(("log", "t:new", "t:row:1", "e:r:page", "e:r:item:1"))
choices = st.integers(0, 5)  # selects one of the commands or changes that exist at that moment


class CacheMachine(RuleBasedStateMachine):
    """The steps of two processes, their writers, the channel and Valkey, in any order."""

    def __init__(self, harness: Harness) -> None:
        super().__init__()
        self.world = World(harness)

    def teardown(self) -> None:
        self.world.close()

    @rule(process=processes, key=keys)
    def begin_a_read(self, process: int, key: str) -> None:
        self.world.read(process, key)

    @rule(process=processes, until=st.sampled_from(("MGET", "LEASE", "LOAD", "FILL", "")))
    def run(self, process: int, until: str) -> None:
        self.world.run(process, until)

    @rule(process=processes, key=keys)
    def read(self, process: int, key: str) -> None:
        self.world.read(process, key)
        self.world.run(process)

    @rule(process=processes, choice=choices, times=st.sampled_from((1, 2)))
    def send(self, process: int, choice: int, times: int) -> None:
        if commands := self.world.pending(process):
            self.world.send(commands[choice % len(commands)], times)

    @rule(process=processes, choice=choices)
    def receive(self, process: int, choice: int) -> None:
        if commands := self.world.pending(process):
            self.world.receive(commands[choice % len(commands)])

    @precondition(lambda self: self.world.sent)
    @rule(choice=choices)
    def repeat_a_script(self, choice: int) -> None:
        self.world.repeat(self.world.sent[-6:][choice % len(self.world.sent[-6:])])

    @rule(row=rows, is_shown=st.booleans())
    def write(self, row: int, is_shown: bool) -> None:
        self.world.write(row, is_shown=is_shown)

    @precondition(lambda self: self.world.unacknowledged)
    @rule(choice=choices, process=processes)
    def invalidate(self, choice: int, process: int) -> None:
        changes = self.world.unacknowledged
        self.world.invalidate(changes[choice % len(changes)], process)

    @rule(row=rows, is_delivered=st.booleans())
    def change(self, row: int, is_delivered: bool) -> None:
        self.world.change(row)
        for process in (0, 1) if is_delivered else ():
            self.deliver_all(process)

    @rule(process=processes)
    def deliver_all(self, process: int) -> None:
        while self.world.processes[process].inbox:
            self.world.deliver(process)

    @rule(process=processes)
    def deliver_one(self, process: int) -> None:
        if self.world.processes[process].inbox:
            self.world.deliver(process)

    @rule(process=processes, noticed=st.booleans())
    def disconnect_or_reconnect(self, process: int, noticed: bool) -> None:
        if self.world.processes[process].is_connected:
            self.world.processes[process].disconnect(noticed=noticed)
        else:
            self.world.reconnect(process)

    @rule(name=evictable)
    def evict(self, name: str) -> None:
        self.world.evict(name)

    @rule(writes=st.sampled_from((WRITES, ("INVALIDATE",), ())))
    def refuse(self, writes: tuple[str, ...]) -> None:
        self.world.refuse(*writes)

    @rule(seconds=st.sampled_from((0.5, 1, 3)), suspended=st.sampled_from(((), (0,), (1,), (0, 1))))
    def wait(self, seconds: float, suspended: tuple[int, ...]) -> None:
        self.world.wait(seconds, suspended)

    @rule(fault=st.sampled_from((World.expire_leases, World.flush, World.trim_log)))
    def cause_a_fault(self, fault: Callable[[World], None]) -> None:
        fault(self.world)

    @rule(
        fault=st.sampled_from((World.fail_a_load, World.cancel_a_read, World.kill)),
        process=processes,
    )
    def cause_a_fault_in_a_process(self, process: int, fault: Callable[[World, int], None]) -> None:
        fault(self.world, process)


def test_no_read_shows_less_than_was_acknowledged(harness: Harness) -> None:
    for number in range(SEEDS):
        machine: Any = seed(number)(lambda: CacheMachine(harness))
        run_state_machine_as_test(machine, settings=SEQUENCES)
