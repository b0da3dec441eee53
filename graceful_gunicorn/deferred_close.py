"""Delays the end of a connection until the body of its last request has arrived."""

from asyncio import Transport
from typing import Any

from uvicorn.protocols.http.httptools_impl import RequestResponseCycle


class DeferredClose(Transport):
    """The transport of a request in HTTP/1.0, with `Connection: close`, or with a body.

    Uvicorn closes it after the last response. If the body is still arriving, the TCP reset would
    destroy the response, so nothing is closed then. The protocol closes the connection later. A
    response that was given up is not complete, and is closed at once.
    """

    __slots__ = ("_cycle", "_transport")

    def __init__(self, cycle: RequestResponseCycle) -> None:
        super().__init__()
        self._cycle = cycle
        self._transport = cycle.transport

    def is_closing(self) -> bool:
        return self._transport.is_closing()

    def write(self, data: Any) -> None:
        self._transport.write(data)

    def close(self) -> None:
        if not self._cycle.more_body or not self._cycle.response_complete:
            self._transport.close()
