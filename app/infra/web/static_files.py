"""Static files and byte ranges of them: Starlette's, with errors that are problems."""

import os
from collections.abc import Awaitable
from http import HTTPStatus

from starlette.datastructures import Headers
from starlette.responses import FileResponse, Response
from starlette.staticfiles import NotModifiedResponse, StaticFiles
from starlette.types import Message, Receive, Scope, Send

from app.infra.web.head_requests import is_head_request
from app.infra.web.problems import code_of, problem

REVALIDATED = {"Cache-Control": "public, no-cache"}  # caches must ask whether a copy is valid
RANGE_ERRORS = {
    400: "The header Range does not have the form bytes=first-last.",
    416: "The file has no such range.",
}


class RangeFileResponse(FileResponse):
    """Ignores ranges of HEAD requests and of other units than bytes (RFC 9110, §14.2)."""

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        is_error = False

        def send_file_or_problem(message: Message) -> Awaitable[None]:
            nonlocal is_error
            if message["type"] == "http.response.start" and message["status"] in RANGE_ERRORS:
                is_error = True
                return _range_error(scope, message)(scope, receive, send)
            return _drop_body() if is_error else send(message)

        headers = [
            (name, value)
            for name, value in scope["headers"]
            if name != b"range" or (_is_byte_range(value) and not is_head_request())
        ]
        await super().__call__({**scope, "headers": headers}, receive, send_file_or_problem)


class RangeStaticFiles(StaticFiles):
    def file_response(
        self,
        full_path: str | os.PathLike[str],
        stat_result: os.stat_result,
        scope: Scope,
        status_code: int = 200,
    ) -> Response:
        file = RangeFileResponse(full_path, status_code, REVALIDATED, stat_result=stat_result)
        if self.is_not_modified(file.headers, Headers(scope=scope)):
            return NotModifiedResponse(file.headers)
        return file


def _is_byte_range(value: bytes) -> bool:
    return value.partition(b"=")[0].strip().lower() == b"bytes"


def _range_error(scope: Scope, start: Message) -> Response:
    status = HTTPStatus(start["status"])
    content_range = Headers(raw=start["headers"]).get("content-range")
    headers = {"Content-Range": content_range} if content_range else {}
    return problem(scope, status, code_of(status), RANGE_ERRORS[status], headers=headers)


async def _drop_body() -> None:
    """Replace the body of Starlette's error."""
