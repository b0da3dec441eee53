"""Short histories that a cache without one of its safeguards answers with stale data.

Each history begins with an empty world. Process 0 reads. Process 1 acknowledges the changes.
"""

from tests.coherent_cache.world import WRITES, World


def changed_before_the_fill(world: World) -> None:
    """A row of the page changes after the load and before the fill."""
    world.read(0, "page")
    world.run(0, until="FILL")
    world.change(1)
    world.run(0)


def log_evicted_before_the_fill(world: World) -> None:
    """A row changes before the fill, and the log that recorded the change is evicted."""
    world.read(0, "page")
    world.run(0, until="FILL")
    world.change(1)
    world.evict("log")
    world.run(0)


def log_recreated_before_the_fill(world: World) -> None:
    """The log is evicted after the change, and another reader's lease creates a new log."""
    world.read(0, "page")
    world.run(0, until="FILL")
    world.change(1)
    world.evict("log")
    world.read(1, "item:2")
    world.run(1)
    world.run(0)


def log_recreated_by_a_repeated_lease(world: World) -> None:
    """The log is evicted, and recreated when the network delivers this reader's LEASE again."""
    world.read(0, "page")
    world.run(0, until="FILL")
    world.change(1)
    world.evict("log")
    world.repeat(world.last_sent("LEASE"))
    world.run(0)


def log_recreated_by_a_repeated_invalidation(world: World) -> None:
    """The log is evicted, and recreated when the INVALIDATE that created it is delivered again."""
    world.change(2)
    created_log = world.last_sent("INVALIDATE")
    world.read(0, "page")
    world.run(0, until="FILL")
    world.change(1)
    world.evict("log")
    world.repeat(created_log)
    world.run(0)


def log_trimmed_before_the_fill(world: World) -> None:
    """The log is trimmed and loses the change. A LEASE is delivered again, like a new one."""
    world.read(0, "page")
    world.run(0, until="FILL")
    world.change(1)
    world.trim_log()
    world.repeat(world.last_sent("LEASE"))
    world.run(0)


def log_set_back_before_the_fill(world: World) -> None:
    """The log is damaged and counts from zero again, so the change seems older than the lease."""
    world.trim_log()
    world.trim_log()
    world.read(0, "page")
    world.run(0, until="FILL")
    world.reset_log_counters()
    world.change(1)
    world.run(0)


def damaged_after_the_fill(world: World) -> None:
    """One byte of a stored entry changes, so that the entry shows an earlier version."""
    world.change(1)
    world.read(0, "item:1")
    world.run(0)
    world.damage_entry("item:1", b'{"1": 1}', b'{"1": 0}')


def changed_after_the_fill(world: World) -> None:
    """A row changes after the fill, and the stored page is looked up."""
    world.read(0, "page")
    world.run(0)
    world.change(1)


def changed_while_memory_holds_a_copy(world: World) -> None:
    """A row changes, and a process that holds a copy of the page reads the page again."""
    world.read(0, "page")
    world.run(0)
    world.change(1)
    world.read(0, "page")
    world.run(0)


def changed_during_a_second_look_up(world: World) -> None:
    """A waiting load looks up what the running load stored. A third reader comes meanwhile."""
    world.read(0, "item:1")
    world.run(0, until="FILL")
    world.read(0, "item:1")
    world.run(0, until="FILL")
    world.receive(next(command for command in world.pending(0) if command.name == "FILL"))
    world.send(world.pending(0)[0])
    world.change(1)
    world.read(0, "item:1")
    world.run(0)


def tag_shared_by_two_entries(world: World) -> None:
    """A row changes, and only one of the two entries that show it is loaded again."""
    world.read(0, "item:1")
    world.run(0)
    world.change(1)
    world.read(0, "page")
    world.run(0)


def invalidated_during_a_look_up(world: World) -> None:
    """An invalidation arrives between a look-up at Valkey and its answer."""
    world.read(1, "item:1")
    world.run(1)
    world.read(0, "item:1")
    _send_second_mget(world)
    world.change(1)
    world.deliver(0)
    world.run(0)


def invalidated_during_a_fill(world: World) -> None:
    """An invalidation arrives between a FILL and its answer."""
    world.read(0, "item:1")
    world.run(0, until="FILL")
    world.send(world.pending(0)[0])
    world.change(1)
    world.deliver(0)
    world.run(0)


def missed_during_a_look_up(world: World) -> None:
    """The channel misses an invalidation and reconnects, between a look-up and its answer."""
    world.read(1, "item:1")
    world.run(1)
    world.read(0, "item:1")
    _send_second_mget(world)
    world.processes[0].disconnect(noticed=True)
    world.change(1)
    world.reconnect(0)
    world.deliver(0)
    world.run(0)


def _send_second_mget(world: World) -> None:
    """Process 0 does not know the entry's tags yet, so its second MGET reads the tokens."""
    world.receive(world.pending(0)[0])
    world.send(world.pending(0)[0])


def missed_by_the_memory(world: World) -> None:
    """The channel misses an invalidation, and the client reconnects silently."""
    world.read(0, "item:1")
    world.run(0)
    world.processes[0].disconnect(noticed=False)
    world.change(1)
    world.reconnect(0)
    world.deliver(0)


def read_begun_during_a_load(world: World) -> None:
    """A row changes during a load, and then another read of the same key begins."""
    world.read(0, "item:1")
    world.run(0, until="FILL")
    world.change(1)
    world.read(0, "item:1")
    world.run(0)


def lease_sent_twice(world: World) -> None:
    """The answer to LEASE is lost, and the client sends LEASE again."""
    world.read(0, "item:1")
    world.run(0, until="LEASE")
    world.send(world.pending(0)[0], times=2)


def refused_while_memory_holds_the_entry(world: World) -> None:
    """Valkey refuses for seconds to invalidate an entry that a process holds in memory."""
    world.read(0, "item:1")
    world.run(0)
    world.refuse(*WRITES)
    world.change(1)
    world.wait(3)


def refused_while_valkey_holds_the_entry(world: World) -> None:
    """Valkey refuses the invalidation for seconds, and a process then looks the entry up."""
    refused_while_memory_holds_the_entry(world)
    world.read(0, "item:1")
    world.run(0)


def only_the_invalidation_is_refused(world: World) -> None:
    """Valkey refuses only the INVALIDATE script, so the probe of the process succeeds."""
    world.read(0, "item:1")
    world.run(0)
    world.refuse("INVALIDATE")
    world.change(1)
    world.wait(3)


def refused_while_a_process_is_suspended(world: World) -> None:
    """A process is suspended during the refusal, and reads before it has polled again."""
    world.read(0, "item:1")
    world.run(0)
    world.refuse(*WRITES)
    world.change(1)
    world.wait(3, suspended=[0])
    world.read(0, "item:1")
    world.run(0)


def refused_and_relayed_later(world: World) -> None:
    """A relay repeats the refused invalidation. Its message has not reached the process yet."""
    refused_while_memory_holds_the_entry(world)
    world.refuse()
    world.wait(1)


def row_expired_during_a_load(world: World) -> None:
    """A process is suspended in its load until the refused invalidation has been given up."""
    world.read(0, "item:1")
    world.run(0, until="LOAD")
    world.send(world.pending(0)[0])
    world.refuse(*WRITES)
    world.change(1)
    world.wait(3_600, suspended=[0], poll_seconds=3_600)
    world.refuse()
    world.run(0)
