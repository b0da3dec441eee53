"""Drains keep-alive connections without losing a request: the next response closes the connection.

If a server closes an idle connection, the client may be sending its next request at that moment,
and that request is lost. A client that has received `Connection: close` opens a new connection
instead.
"""

from graceful_gunicorn.running_request import NoticingProtocol


class DrainingProtocol(NoticingProtocol):
    is_draining = False

    @property
    def is_idle(self) -> bool:
        """Whether no request of this connection is being answered."""
        return self.cycle is None or self.cycle.response_complete

    @property
    def is_cut_off(self) -> bool:
        """Whether a response was given up before its end. The client may not have read the rest."""
        return not self.is_idle and self.transport.is_closing()

    def drain(self) -> None:
        """Close the connection after the response to its current request, or else its next one."""
        self.is_draining = True
        self._close_after_response()

    def on_message_complete(self) -> None:
        super().on_message_complete()
        if self.is_draining:
            self._close_after_response()

    def _close_after_response(self) -> None:
        """Make Uvicorn add `Connection: close` to the response, if it can still be added.

        It is not added while an unread body is still arriving: the TCP reset would destroy the
        response. In that case the response to the next request closes the connection.
        """
        if not self.is_idle and not self.cycle.response_started and not self.cycle.more_body:
            self.cycle.keep_alive = False
