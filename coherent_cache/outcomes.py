"""What the store answers to a look-up and to a request for a lease."""

from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class Miss:
    """There is no valid entry. `invalid_fill_id` identifies the invalid entry, if there is one."""

    invalid_fill_id: bytes = b""


@dataclass(frozen=True, slots=True)
class Lease:
    """The right to load, with the position in the log at which the load begins."""

    token: bytes
    epoch: bytes
    log_position: int


class Wait:
    """Another reader holds the lease. Look up again after a moment."""


class LookUpAgain:
    """The entry has changed since it was looked up."""
