"""RangeStaticFiles that are sent as they are: whole, or the byte ranges that a client asks for."""

import os
from collections.abc import Awaitable
from http import HTTPStatus

from starlette.datastructures import Headers
from starlette.responses import FileResponse, Response
from starlette.staticfiles import NotModifiedResponse, StaticFiles
from starlette.types import Message, Receive, Scope, Send

from app.infra.web.head_requests import IS_HEAD
from app.infra.web.problems import code_of, problem

# Everybody may keep a copy, and asks each time whether it is still valid.
KEPT = {"Cache-Control": "public, no-cache"}
DETAILS = {
    400: "The header Range does not have the form bytes=first-last.",
    416: "The file has no such range.",
}


class RangeFileResponse(FileResponse):
    """A `FileResponse` that ignores a range it must not answer (RFC 9110, §14.2).

    That is a range of another unit than bytes, and any range of a HEAD. Its errors are problems.
    """

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        is_refused = False

        def send_file_or_problem(message: Message) -> Awaitable[None]:
            nonlocal is_refused
            if message["type"] == "http.response.start" and message["status"] in DETAILS:
                is_refused = True
                return _refusal(scope, message)(scope, receive, send)
            return _nothing() if is_refused else send(message)

        headers = [field for field in scope["headers"] if _counts(field, scope)]
        await super().__call__({**scope, "headers": headers}, receive, send_file_or_problem)


class RangeStaticFiles(StaticFiles):
    """Starlette's static files, sent as `RangeFileResponse`."""

    def file_response(
        self,
        full_path: str | os.PathLike[str],
        stat_result: os.stat_result,
        scope: Scope,
        status_code: int = 200,
    ) -> Response:
        """Answer with the file, or 304 when the client has it."""
        file = RangeFileResponse(full_path, status_code, KEPT, stat_result=stat_result)
        if self.is_not_modified(file.headers, Headers(scope=scope)):
            return NotModifiedResponse(file.headers)
        return file


def _counts(field: tuple[bytes, bytes], scope: Scope) -> bool:
    """Whether a field of the request is any other than a range that has to be ignored."""
    name, value = field
    if name != b"range":
        return True
    return IS_HEAD not in scope and value.partition(b"=")[0].strip().lower() == b"bytes"


def _refusal(scope: Scope, start: Message) -> Response:
    status = HTTPStatus(start["status"])
    length = {name: value for name, value in start["headers"] if name == b"content-range"}
    headers = {name.decode(): value.decode() for name, value in length.items()}
    return problem(scope, status, code_of(status), DETAILS[status], headers=headers)


async def _nothing() -> None:
    """Drop the body of the error that a problem has replaced."""
