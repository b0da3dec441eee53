"""Short histories in which a cache with one safeguard less shows somebody too little.

Each begins with an empty world. Process 0 reads; changes are acknowledged by process 1.
"""

from tests.infra.cache.world import WRITES, World


def changed_before_the_fill(world: World) -> None:
    """A row of the page changes after the load, and before the page is stored."""
    world.read(0, "page")
    world.run(0, until="FILL")
    world.change(1)
    world.run(0)


def log_evicted_before_the_fill(world: World) -> None:
    """The same, and the log that knows of it is gone."""
    world.read(0, "page")
    world.run(0, until="FILL")
    world.change(1)
    world.evict("log")
    world.run(0)


def log_made_anew_before_the_fill(world: World) -> None:
    """The same, and another reader has a new log made."""
    world.read(0, "page")
    world.run(0, until="FILL")
    world.change(1)
    world.evict("log")
    world.read(1, "item:2")
    world.run(1)
    world.run(0)


def log_made_anew_by_a_late_lease(world: World) -> None:
    """The same, by this reader's own LEASE, which the network delivers a second time."""
    world.read(0, "page")
    world.run(0, until="FILL")
    world.change(1)
    world.evict("log")
    world.repeat(world.last("LEASE"))
    world.run(0)


def log_made_anew_by_a_late_invalidation(world: World) -> None:
    """The same, by the INVALIDATE that made the old log."""
    world.change(2)
    made = world.last("INVALIDATE")
    world.read(0, "page")
    world.run(0, until="FILL")
    world.change(1)
    world.evict("log")
    world.repeat(made)
    world.run(0)


def log_trimmed_before_the_fill(world: World) -> None:
    """The log has forgotten the change, and a LEASE is repeated late, as if it were a new one."""
    world.read(0, "page")
    world.run(0, until="FILL")
    world.change(1)
    world.trim_log()
    world.repeat(world.last("LEASE"))
    world.run(0)


def log_set_back_before_the_fill(world: World) -> None:
    """The log is damaged and counts from the beginning, so that the change seems to be older."""
    world.trim_log()
    world.trim_log()
    world.read(0, "page")
    world.run(0, until="FILL")
    world.damage_log()
    world.change(1)
    world.run(0)


def damaged_after_the_fill(world: World) -> None:
    """One byte of a stored entry changes, and it shows a version that was there before."""
    world.change(1)
    world.read(0, "item:1")
    world.run(0)
    world.damage("item:1", b'{"1": 1}', b'{"1": 0}')


def changed_after_the_fill(world: World) -> None:
    """A row changes, and the stored page is looked up."""
    world.read(0, "page")
    world.run(0)
    world.change(1)


def changed_behind_a_copy(world: World) -> None:
    """A row changes, and the process that has a copy of its page reads the page again."""
    world.read(0, "page")
    world.run(0)
    world.change(1)
    world.read(0, "page")
    world.run(0)


def changed_during_a_second_look_up(world: World) -> None:
    """One waits for another's load, and a third comes while what that has stored is looked up."""
    world.read(0, "item:1")
    world.run(0, until="FILL")
    world.read(0, "item:1")
    world.run(0, until="FILL")
    world.go_on(next(command for command in world.pending(0) if command.name == "FILL"))
    world.send(world.pending(0)[0])
    world.change(1)
    world.read(0, "item:1")
    world.run(0)


def tag_shared_by_two_entries(world: World) -> None:
    """A row changes, and one of the two entries that show it is loaded again."""
    world.read(0, "item:1")
    world.run(0)
    world.change(1)
    world.read(0, "page")
    world.run(0)


def heard_during_a_look_up(world: World) -> None:
    """A change is heard between a look-up at Valkey and its answer."""
    world.read(1, "item:1")
    world.run(1)
    world.read(0, "item:1")
    _send_the_tokens(world)
    world.change(1)
    world.deliver(0)
    world.run(0)


def heard_during_a_fill(world: World) -> None:
    """A change is heard between a FILL and its answer."""
    world.read(0, "item:1")
    world.run(0, until="FILL")
    world.send(world.pending(0)[0])
    world.change(1)
    world.deliver(0)
    world.run(0)


def missed_during_a_look_up(world: World) -> None:
    """A change is missed between a look-up and its answer, and the channel is connected again."""
    world.read(1, "item:1")
    world.run(1)
    world.read(0, "item:1")
    _send_the_tokens(world)
    world.processes[0].cut(noticed=True)
    world.change(1)
    world.subscribe(0)
    world.deliver(0)
    world.run(0)


def _send_the_tokens(world: World) -> None:
    """Process 0 does not know the entry's tags yet: its second MGET decides."""
    world.go_on(world.pending(0)[0])
    world.send(world.pending(0)[0])


def missed_by_a_memory(world: World) -> None:
    """A change is missed, and the client connects again without a word."""
    world.read(0, "item:1")
    world.run(0)
    world.processes[0].cut(noticed=False)
    world.change(1)
    world.subscribe(0)
    world.deliver(0)


def late_comer(world: World) -> None:
    """A reader comes while a load runs that has read what was changed since."""
    world.read(0, "item:1")
    world.run(0, until="FILL")
    world.change(1)
    world.read(0, "item:1")
    world.run(0)


def lease_asked_for_twice(world: World) -> None:
    """The answer to LEASE is lost, and the client asks again."""
    world.read(0, "item:1")
    world.run(0, until="LEASE")
    world.send(world.pending(0)[0], times=2)


def refused_behind_a_memory(world: World) -> None:
    """The invalidation of what a process remembers is refused, for seconds."""
    world.read(0, "item:1")
    world.run(0)
    world.refuse(*WRITES)
    world.change(1)
    world.wait(3)


def refused_behind_an_entry(world: World) -> None:
    """The same, and the process asks Valkey, which answers."""
    refused_behind_a_memory(world)
    world.read(0, "item:1")
    world.run(0)


def refused_though_other_writes_are_not(world: World) -> None:
    """The process may not run the script: its own probe tells nothing."""
    world.read(0, "item:1")
    world.run(0)
    world.refuse("INVALIDATE")
    world.change(1)
    world.wait(3)


def refused_while_a_process_is_stopped(world: World) -> None:
    """The same, and the process was stopped all the time: it reads before it has looked again."""
    world.read(0, "item:1")
    world.run(0)
    world.refuse(*WRITES)
    world.change(1)
    world.wait(3, stopped=[0])
    world.read(0, "item:1")
    world.run(0)


def refused_and_made_up_for(world: World) -> None:
    """Writes are accepted again and relayed. The process has not heard of it yet."""
    refused_behind_a_memory(world)
    world.refuse()
    world.wait(1)


def given_up_during_a_load(world: World) -> None:
    """A process is stopped in its load for longer than anybody repeats an invalidation."""
    world.read(0, "item:1")
    world.run(0, until="LOAD")
    world.send(world.pending(0)[0])
    world.refuse(*WRITES)
    world.change(1)
    world.skip(3_600, stopped=[0])
    world.refuse()
    world.run(0)
