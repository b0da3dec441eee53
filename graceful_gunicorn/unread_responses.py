"""Ends connections whose clients do not read the end of a response.

A connection that is closed first sends what is in its write buffer, for as long as that takes. The
write timeout of protocol.py runs only while the buffer is full.
"""

from collections.abc import Iterable

from graceful_gunicorn.config import ServerConfig
from graceful_gunicorn.connection_draining import DrainingProtocol
from graceful_gunicorn.early_errors import SLOW_READER, record_refusal


class UnreadResponses:
    """The connections that are being closed, and for how many seconds.

    It counts calls, and reads no clock: while the event loop is blocked, no client is slow.
    """

    def __init__(self, config: ServerConfig) -> None:
        self._config = config
        self._seconds: dict[DrainingProtocol, int] = {}

    def abort_overdue(self, connections: Iterable[object]) -> None:
        """Abort the connections that have been closing for too long. Call this once a second."""
        before, http = (
            self._seconds,
            (one for one in connections if isinstance(one, DrainingProtocol)),
        )
        closing = [connection for connection in http if connection.transport.is_closing()]
        self._seconds = {connection: before.get(connection, 0) + 1 for connection in closing}
        for connection, seconds in self._seconds.items():
            if seconds > self._config.write_seconds:
                record_refusal(SLOW_READER, self._config)
                connection.transport.abort()
