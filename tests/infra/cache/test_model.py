"""Whatever happens, in whatever order: nobody is shown less than was acknowledged.

Hypothesis takes random steps with the real code and a real Valkey (world.py says which, and what
must hold after each). The suite takes a few walks; take many more after a change of the protocol:

    MODEL_SEEDS=2000 pytest tests/infra/cache/test_model.py --tb=native

Each seed is ten walks, always the same. What fails is made short, and printed as steps.
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

from tests.infra.cache.database import ROWS
from tests.infra.cache.laboratory import Laboratory
from tests.infra.cache.world import WRITES, World

SEEDS = int(os.environ.get("MODEL_SEEDS", "6"))

WALKS = settings(
    max_examples=10,  # Hypothesis only varies its own after ten: new seeds find more
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
choices = st.integers(0, 5)  # of what there is at that moment


class CacheMachine(RuleBasedStateMachine):
    """Steps of two processes, their writers, the channel and Valkey, in any order."""

    def __init__(self, laboratory: Laboratory) -> None:
        super().__init__()
        self.world = World(laboratory)

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
            self.world.go_on(commands[choice % len(commands)])

    @precondition(lambda self: self.world.sent)
    @rule(choice=choices)
    def repeat_late(self, choice: int) -> None:
        self.world.repeat(self.world.sent[-6:][choice % len(self.world.sent[-6:])])

    @rule(row=rows, shown=st.booleans())
    def write(self, row: int, shown: bool) -> None:
        self.world.write(row, shown=shown)

    @precondition(lambda self: self.world.not_acknowledged)
    @rule(choice=choices, process=processes)
    def invalidate(self, choice: int, process: int) -> None:
        changes = self.world.not_acknowledged
        self.world.invalidate(changes[choice % len(changes)], process)

    @rule(row=rows, heard=st.booleans())
    def change(self, row: int, heard: bool) -> None:
        self.world.change(row)
        for process in (0, 1) if heard else ():
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
    def cut_or_connect(self, process: int, noticed: bool) -> None:
        if self.world.processes[process].is_connected:
            self.world.processes[process].cut(noticed=noticed)
        else:
            self.world.subscribe(process)

    @rule(name=evictable)
    def evict(self, name: str) -> None:
        self.world.evict(name)

    @rule(writes=st.sampled_from((WRITES, ("INVALIDATE",), ())))
    def refuse(self, writes: tuple[str, ...]) -> None:
        self.world.refuse(*writes)

    @rule(seconds=st.sampled_from((0.5, 1, 3)), stopped=st.sampled_from(((), (0,), (1,), (0, 1))))
    def wait(self, seconds: float, stopped: tuple[int, ...]) -> None:
        self.world.wait(seconds, stopped)

    @rule(mishap=st.sampled_from((World.expire_leases, World.flush, World.trim_log)))
    def have_a_mishap(self, mishap: Callable[[World], None]) -> None:
        mishap(self.world)

    @rule(
        mishap=st.sampled_from((World.fail_a_load, World.lose_a_reader, World.kill)),
        process=processes,
    )
    def have_a_mishap_in(self, process: int, mishap: Callable[[World, int], None]) -> None:
        mishap(self.world, process)


def walk(laboratory: Laboratory, number: int) -> None:
    """Take ten walks. The same number always takes the same."""
    machine: Any = seed(number)(lambda: CacheMachine(laboratory))
    run_state_machine_as_test(machine, settings=WALKS)


def test_nobody_is_shown_less_than_was_acknowledged(laboratory: Laboratory) -> None:
    for number in range(SEEDS):
        walk(laboratory, number)
