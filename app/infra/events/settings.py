"""The settings EVENTS_…."""

from app.infra.settings_base.section import Positive, Seconds, Section


class EventsSettings(Section):
    """Limits of each worker on clients that listen to event streams.

    `per_client` is for one user, or one address without a valid token. A client that does not read
    for `send_seconds` is disconnected.
    """

    listeners: Positive = 1_000
    per_client: Positive = 50
    heartbeat_seconds: Seconds = 15
    send_seconds: Seconds = 10
