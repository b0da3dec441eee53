"""Uvicorn's HTTP/1.1 protocol with limits on the size of a request and on slow clients.

No timer is started when a request arrives in a single read. Otherwise the head and the body each
have a deadline. Deadlines are paused while we apply backpressure, and a busy server reads all data
that has arrived before it treats a client as slow. Uvicorn closes idle connections itself. A
refused request is answered with an error, and the connection ends.

A request that asks for another protocol (`Upgrade`) is answered in HTTP/1.1, as RFC 9110 (§7.8)
allows. Uvicorn would drop its body, or parse the body as the next request.
"""

from asyncio import TimerHandle
from contextvars import Context
from typing import Any, ClassVar

from httptools import HttpParserError, HttpParserUpgrade, HttpRequestParser

from graceful_gunicorn import early_errors as errors
from graceful_gunicorn._overdue import OverdueTimer
from graceful_gunicorn.config import ServerConfig
from graceful_gunicorn.connection_draining import DrainingProtocol
from graceful_gunicorn.deferred_close import DeferredClose
from graceful_gunicorn.encoded_head import sending_encoded_heads
from graceful_gunicorn.request_checks import check_head, head_without_upgrade

# After a response to a request that was not read to its end, how long the rest is read and dropped.
LINGER_SECONDS = 2.0

NOTHING, HEAD, BODY = range(3)  # which part of a request is being received


class LimitedProtocol(DrainingProtocol):
    """One connection. `protocol_class` makes the subclasses that have limits."""

    limits: ClassVar[ServerConfig]

    def __init__(self, *arguments: Any, **options: Any) -> None:
        super().__init__(*arguments, **options)
        self.app = sending_encoded_heads(self.app)
        self._receiving = NOTHING
        self._timer: OverdueTimer | TimerHandle | None = None
        self._write_timer: OverdueTimer | None = None
        # Bytes received since the last request ended, or since the last bytes of body content.
        self._overhead_bytes = 0
        self._refusal: errors.EarlyRefusal | None = None
        self._body_chunks: list[bytes] = []  # not yet passed to the application

    def connection_made(self, transport: Any) -> None:
        super().connection_made(transport)
        # A socket bound to :: accepts IPv4 too, and reports 10.0.0.5 as ::ffff:10.0.0.5.
        if self.client and self.client[0].startswith("::ffff:"):
            self.client = (self.client[0].removeprefix("::ffff:"), self.client[1])
        self._start_idle_timer()  # the client may never send anything

    def connection_lost(self, exc: Exception | None) -> None:
        self._stop_timer()
        self._stop_write_timer()
        super().connection_lost(exc)

    def pause_writing(self) -> None:
        """Start the write timeout: a client that never reads would hold the connection for ever."""
        super().pause_writing()
        self._write_timer = OverdueTimer(self.limits.write_seconds, self._on_write_timeout)

    def resume_writing(self) -> None:
        self._stop_write_timer()
        super().resume_writing()

    def data_received(self, data: bytes) -> None:
        """Parse the data, in pieces of at most `header_bytes` while a head may be arriving."""
        most = self.limits.header_bytes
        while len(data) > most and self._receiving is not BODY:
            self._receive(data[:most])
            data = data[most:]
        self._receive(data)

    def _receive(self, data: bytes) -> None:
        if self._refusal is not None:
            # All further data is dropped. Reading stops while an earlier response is being sent.
            # After the error was sent, reading goes on until the connection is closed.
            if not self.is_idle:
                self.flow.pause_reading()
            return
        self._overhead_bytes += len(data)
        self._unset_keepalive_if_required()
        try:
            self._parse(data)
        except HttpParserError:
            if self.transport.is_closing():  # the data comes after the last request
                return
            self._refuse(self._refusal or errors.MALFORMED)
        if self._receiving is not NOTHING or self.is_idle:
            self._wait_for_more()

    def _parse(self, data: bytes | memoryview) -> None:
        """Parse all data. httptools stops after a head with `Upgrade`, whatever follows it."""
        while True:
            try:
                self.parser.feed_data(data)
            except HttpParserUpgrade as stop:
                data = memoryview(data)[stop.args[0] :]
                head = head_without_upgrade(self.parser, self.url, self.headers)
                # The old parser is past this request, and stays there after `Connection: close`.
                self.parser = HttpRequestParser(self)
                self.parser.set_dangerous_leniencies(lenient_data_after_close=True)
                self.parser.feed_data(head)
            else:
                self._pass_on_body()
                return

    def _pass_on_body(self) -> None:
        """Pass the chunks on together: Uvicorn's `on_body` copies all earlier ones each time."""
        if self._body_chunks:
            super().on_body(b"".join(self._body_chunks))
            self._body_chunks.clear()

    def _wait_for_more(self) -> None:
        if self._refusal is not None:
            return
        if self._receiving is NOTHING:
            self._overhead_bytes = 0
            self._start_idle_timer()  # an empty line does not begin a request
        elif self._overhead_bytes > self.limits.header_bytes:  # or trailers, or chunk extensions
            self._refuse(errors.LARGE_HEAD)
        elif self._timer is None:
            self._start_timer()

    def on_message_begin(self) -> None:
        if self.transport.is_closing():  # nothing is answered after the last request
            raise ValueError
        self._receiving = HEAD
        super().on_message_begin()

    def on_headers_complete(self) -> None:
        """Check the complete head. An error raised here makes the parser raise as well."""
        refusal = check_head(self.parser, self.url, self.headers, self.limits, self._overhead_bytes)
        if refusal is not None:
            self._refusal = refusal
            raise ValueError(refusal.detail)
        if self.parser.should_upgrade():
            return  # `_parse` feeds the same head again, without `Upgrade`
        super().on_headers_complete()
        if not self.cycle.keep_alive:
            self.cycle.transport = DeferredClose(self.cycle)
        # The parser adds trailers to `headers`. The application keeps the old list.
        self.headers, self._receiving, self._overhead_bytes = [], BODY, 0
        self._stop_timer()

    def on_body(self, body: bytes) -> None:
        """Collect a chunk of the body. `_parse` passes the chunks on when all data is parsed."""
        self._overhead_bytes, self.expect_100_continue = 0, False  # the client waits no longer
        if self.cycle.transport is self.transport:  # its response may come before the rest
            self.cycle.transport = DeferredClose(self.cycle)
        self._body_chunks.append(body)

    def on_message_complete(self) -> None:
        if self.parser.should_upgrade():
            return
        self._pass_on_body()
        self._receiving, self._overhead_bytes = NOTHING, 0
        self._stop_timer()
        super().on_message_complete()
        if self.is_idle and not self.cycle.keep_alive:  # the response was sent before
            self.transport.close()

    def on_response_complete(self) -> None:
        """Limit how long the connection waits for the rest of an unread body."""
        super().on_response_complete()
        if self.pipeline:  # answer the pipelined requests before reading more of them
            self.flow.pause_reading()
        # If a pipelined request runs now, the body is that one's.
        if self._receiving is BODY and self.is_idle and not self.transport.is_closing():
            self._unset_keepalive_if_required()
            if self.expect_100_continue:
                # The client may skip the body, so the next bytes could be body or a new request.
                self.transport.close()
            else:
                self._close_after_linger()

    def _start_idle_timer(self) -> None:
        seconds, close = self.timeout_keep_alive, self.timeout_keep_alive_handler
        self.timeout_keep_alive_task = self.loop.call_later(seconds, close)

    def _start_timer(self) -> None:
        limits = self.limits
        seconds = limits.header_seconds if self._receiving is HEAD else limits.body_seconds
        self._timer = OverdueTimer(seconds, self._on_read_timeout)

    def _stop_timer(self) -> None:
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None

    def _stop_write_timer(self) -> None:
        if self._write_timer is not None:
            self._write_timer.cancel()
            self._write_timer = None

    def _on_write_timeout(self) -> None:
        errors.record_refusal(errors.SLOW_READER, self.limits)
        self.transport.abort()

    def _on_read_timeout(self) -> None:
        if self.flow.read_paused:
            self._start_timer()
        else:
            self._refuse(errors.SLOW_HEAD if self._receiving is HEAD else errors.SLOW_BODY)

    def _refuse(self, refusal: errors.EarlyRefusal) -> None:
        """End the connection. The error is sent unless another response is in progress."""
        self._refusal = refusal
        errors.record_refusal(refusal, self.limits)
        self._stop_timer()
        if self._receiving is BODY:
            self._abort_request(refusal)
        elif not self.is_idle:
            self.cycle.keep_alive = False  # the response to the earlier request is the last one
        else:
            self._send_error(refusal, "")

    def _abort_request(self, refusal: errors.EarlyRefusal) -> None:
        """End a request that the application is handling, as if its client had disconnected."""
        if self.cycle.response_started or self.pipeline:
            self.transport.close()
        else:
            self._send_error(refusal, self.scope["path"])
        if not self.is_idle:
            self.cycle.disconnected = True
            self.cycle.message_event.set()

    def _send_error(self, refusal: errors.EarlyRefusal, path: str) -> None:
        default = self.server_state.default_headers
        # An empty context: the error must not inherit the context of another request.
        response = Context().run(errors.render_refusal, refusal, path, default, self.limits)
        self.transport.write(response)
        if self.transport.can_write_eof():
            self.transport.write_eof()
            self._close_after_linger()
        else:
            self.transport.close()

    def _close_after_linger(self) -> None:
        """Close soon. If unread data were left now, the TCP reset would destroy the response."""
        self._stop_timer()
        self._timer = self.loop.call_later(LINGER_SECONDS, self.transport.close)


def protocol_class(config: ServerConfig) -> type[LimitedProtocol]:
    """Return the protocol with these limits, for `uvicorn.Config(http=...)`."""
    return type("LimitedProtocol", (LimitedProtocol,), {"limits": config})
