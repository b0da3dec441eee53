"""Uvicorn's HTTP/1.1 protocol with the limits that it lacks, on what a client sends and how slowly.

A request that arrives at once meets no timer. One that does not has a deadline for its head and one
for its body; while the server itself does not read, the client is not the one who is slow. A busy
server reads what has arrived before it decides that a client is late. An idle connection is
Uvicorn's to close. What is refused is answered as a problem, and the connection ends.

A request that asks for another protocol (`Upgrade`) is answered in HTTP/1.1, which RFC 9110 (§7.8)
allows. Uvicorn would drop its body or parse the body as the next request.

Uvicorn takes this class by its name, so it reads its settings itself.
"""

from asyncio import TimerHandle
from contextvars import Context
from typing import Any, ClassVar

from httptools import HttpParserError, HttpParserUpgrade, HttpRequestParser
from uvicorn.protocols.http.httptools_impl import HttpToolsProtocol

from app.infra.cache.overdue import Overdue
from app.infra.server.refusal import Refusal, note, refusal_bytes
from app.infra.server.request_head import LARGE_HEAD, refusal_of, without_upgrade
from app.infra.web.security_headers import security_headers
from app.sections import ServerSettings
from app.settings import load_settings

# After an answer to what was not read to its end, how long the rest is read and dropped.
LINGER_SECONDS = 2.0

SLOW_HEAD = Refusal("header_seconds", 408, "The header took too long to arrive.")
SLOW_BODY = Refusal("body_seconds", 408, "The body took too long to arrive.")
SLOW_READER = Refusal("write_seconds", 408, "The answer was not read.")  # nor would this be
MALFORMED = Refusal("malformed", 400, "This is not HTTP/1.1.")

NOTHING, HEAD, BODY = range(3)  # what of a request is about to come


class LimitedProtocol(HttpToolsProtocol):
    """One connection. `limits` are those of the process."""

    limits: ClassVar[ServerSettings] = load_settings().server

    def __init__(self, *arguments: Any, **options: Any) -> None:
        super().__init__(*arguments, **options)
        self._part = NOTHING
        self._timer: Overdue | TimerHandle | None = None
        self._write_timer: Overdue | None = None
        self._overhead = 0  # bytes since the last request, or since something of a body came
        self._refusal: Refusal | None = None
        self._pieces: list[bytes] = []  # of a body, that the application does not have yet

    def connection_made(self, transport: Any) -> None:
        """Close a connection that is not used at all as one that is idle."""
        super().connection_made(transport)
        # A socket for :: accepts IPv4 too, and has 10.0.0.5 as ::ffff:10.0.0.5.
        if self.client and self.client[0].startswith("::ffff:"):
            self.client = (self.client[0].removeprefix("::ffff:"), self.client[1])
        self._expect_a_request()

    def connection_lost(self, exc: Exception | None) -> None:
        """Leave no timer behind."""
        self._stop_timer()
        self._stop_write_timer()
        super().connection_lost(exc)

    def pause_writing(self) -> None:
        """Give the client a time to take what was sent: it would hold the connection for ever."""
        super().pause_writing()
        self._write_timer = Overdue(self.limits.write_seconds, self._on_unread)

    def resume_writing(self) -> None:
        """Go on: it has taken most of it."""
        self._stop_write_timer()
        super().resume_writing()

    def data_received(self, data: bytes) -> None:
        """Parse what came, not much more of it at a time than a head may have."""
        most = self.limits.header_bytes
        while len(data) > most and self._part is not BODY:
            self._parse(data[:most])
            data = data[most:]
        self._parse(data)

    def _parse(self, data: bytes) -> None:
        if self._refusal is not None:
            if self._is_answering():  # whoever waits for the end of the client reads on
                self.flow.pause_reading()
            return
        self._overhead += len(data)
        self._unset_keepalive_if_required()
        try:
            self._feed(data)
        except HttpParserError:
            self._refuse(self._refusal or MALFORMED)
        if self._part is not NOTHING or self.cycle is None or self.cycle.response_complete:
            self._wait_for_more()

    def _feed(self, data: bytes | memoryview) -> None:
        """Parse everything. httptools stops behind a head with `Upgrade`, whatever follows it."""
        while True:
            try:
                self.parser.feed_data(data)
            except HttpParserUpgrade as stop:
                data = memoryview(data)[stop.args[0] :]
                head = without_upgrade(self.parser, self.url, self.headers)
                # The old parser is past this request, and stays there after `Connection: close`.
                self.parser = HttpRequestParser(self)
                self.parser.set_dangerous_leniencies(lenient_data_after_close=True)
                self.parser.feed_data(head)
            else:
                self._hand_on_body()
                return

    def _hand_on_body(self) -> None:
        """Hand on the pieces at once: one by one, each would copy all that came before it."""
        if self._pieces:
            super().on_body(b"".join(self._pieces))
            self._pieces.clear()

    def _wait_for_more(self) -> None:
        if self._refusal is not None:
            return
        if self._part is NOTHING:
            self._overhead = 0
            self._expect_a_request()  # an empty line is none
        elif self._overhead > self.limits.header_bytes:  # of trailers and chunk extensions, too
            self._refuse(LARGE_HEAD)
        elif self._timer is None:
            self._start_timer()

    def on_message_begin(self) -> None:
        """Begin a head."""
        self._part = HEAD
        super().on_message_begin()

    def on_headers_complete(self) -> None:
        """Look at the head as a whole. What is raised here makes the parser raise as well."""
        wrong = refusal_of(self.parser, self.url, self.headers, self.limits, self._overhead)
        if wrong is not None:
            self._refusal = wrong
            raise ValueError(wrong.detail)
        if self.parser.should_upgrade():
            return  # the same head follows, without `Upgrade`
        super().on_headers_complete()
        self.headers = []  # the parser adds trailers here; the application keeps the old list
        self._part, self._overhead = BODY, 0
        self._stop_timer()

    def on_body(self, body: bytes) -> None:
        """Take a piece of a body."""
        self._overhead = 0
        self._pieces.append(body)

    def on_message_complete(self) -> None:
        """Have the whole request."""
        if self.parser.should_upgrade():
            return
        self._hand_on_body()
        self._part, self._overhead = NOTHING, 0
        self._stop_timer()
        super().on_message_complete()

    def on_response_complete(self) -> None:
        """Do not wait for long for a body that nobody reads any more."""
        super().on_response_complete()
        if self.pipeline:  # what is asked for already is answered before more is taken in
            self.flow.pause_reading()
        if self._part is BODY and not self.pipeline and not self.transport.is_closing():
            self._unset_keepalive_if_required()
            if self.expect_100_continue:  # it may never send the body: what follows is unclear
                self.transport.close()
            else:
                self._linger()

    def _expect_a_request(self) -> None:
        self.timeout_keep_alive_task = self.loop.call_later(
            self.timeout_keep_alive, self.timeout_keep_alive_handler
        )

    def _start_timer(self) -> None:
        is_head = self._part is HEAD
        seconds = self.limits.header_seconds if is_head else self.limits.body_seconds
        self._timer = Overdue(seconds, self._on_late)

    def _stop_timer(self) -> None:
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None

    def _stop_write_timer(self) -> None:
        if self._write_timer is not None:
            self._write_timer.cancel()
            self._write_timer = None

    def _on_unread(self) -> None:
        note(SLOW_READER)
        self.transport.abort()

    def _on_late(self) -> None:
        if self.flow.read_paused:
            self._start_timer()
        else:
            self._refuse(SLOW_HEAD if self._part is HEAD else SLOW_BODY)

    def _is_answering(self) -> bool:
        return self.cycle is not None and not self.cycle.response_complete

    def _refuse(self, refusal: Refusal) -> None:
        """End the connection, with an answer unless another is under way."""
        self._refusal = refusal
        note(refusal)
        self._stop_timer()
        if self._part is BODY:
            self._break_off(refusal)
        elif self._is_answering():
            self.cycle.keep_alive = False  # the answer to an earlier request is the last one
        else:
            self._answer(refusal, "")

    def _break_off(self, refusal: Refusal) -> None:
        """End a request that the application has: it is told that its client left."""
        if self.cycle.response_started or self.pipeline:
            self.transport.close()
        else:
            self._answer(refusal, self.scope["path"])
        if self._is_answering():
            self.cycle.disconnected = True
            self.cycle.message_event.set()

    def _answer(self, refusal: Refusal, path: str) -> None:
        headers = [*self.server_state.default_headers, *security_headers(self.limits)]
        answer = Context().run(refusal_bytes, refusal, path, headers)
        self.transport.write(answer)
        if self.transport.can_write_eof():
            self.transport.write_eof()
            self._linger()
        else:
            self.transport.close()

    def _linger(self) -> None:
        """Close soon: at once, with bytes unread, the client would be cut off from its answer."""
        self._stop_timer()
        self._timer = self.loop.call_later(LINGER_SECONDS, self.transport.close)
