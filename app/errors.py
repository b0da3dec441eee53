"""Expected errors. Each has a status, a stable code, and a sentence for a person.

`infra/web/problems.py` turns them into responses.
"""

from typing import ClassVar


class AppError(Exception):
    """`detail` is sent to the client. Never put a secret or the client's input into it."""

    status: ClassVar[int]
    code: str
    retry_after_seconds: int | None = None

    def __init__(self, detail: str, *, code: str | None = None) -> None:
        super().__init__(detail)
        self.detail = detail
        if code is not None:
            self.code = code


class Unauthenticated(AppError):
    """The caller has no valid credentials."""

    status = 401
    code = "unauthenticated"


class Forbidden(AppError):
    """The caller is known, but not allowed to do this."""

    status = 403
    code = "forbidden"


class NotFound(AppError):
    """The resource does not exist, or the caller must not know that it does."""

    status = 404
    code = "not_found"


class NotAcceptable(AppError):
    """The client accepts no format in which the response can be sent."""

    status = 406
    code = "not_acceptable"


class Conflict(AppError):
    """The request contradicts stored data."""

    status = 409
    code = "conflict"


class Stale(AppError):
    """The resource has changed since the caller read it."""

    status = 412
    code = "stale"


class UnsupportedMediaType(AppError):
    """The content of the request is of no type that this call takes."""

    status = 415
    code = "unsupported_media_type"


class InvalidRequest(AppError):
    """The request is well-formed, but its values are not acceptable."""

    status = 422
    code = "invalid_request"


class RateLimited(AppError):
    """The client has sent more requests than a rate limit allows."""

    status = 429
    code = "rate_limited"

    def __init__(self, seconds: int, reason: str = "Too many requests.") -> None:
        super().__init__(f"{reason} Try again in {seconds} s.")
        self.retry_after_seconds = seconds


class Unavailable(AppError):
    """A dependency or capacity is missing at the moment. The same request may succeed later."""

    status = 503
    code = "unavailable"
    retry_after_seconds = 1


class PermanentError(Exception):
    """A job that raises this is held at once, because another delivery would fail too.

    The message is logged. Never put a secret or personal data into it.
    """
