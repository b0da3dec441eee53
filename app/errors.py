"""What can go wrong on purpose: a status, a stable code and a sentence for a person.

Nothing here knows HTTP's machinery; `infra/web/problems.py` turns these into responses.
"""

from typing import ClassVar


class AppError(Exception):
    """An expected failure. `detail` is shown to the client: never put a secret or input in it."""

    status: ClassVar[int]
    code: str
    retry_after_seconds: int | None = None

    def __init__(self, detail: str, *, code: str | None = None) -> None:
        super().__init__(detail)
        self.detail = detail
        if code is not None:
            self.code = code


class Unauthenticated(AppError):
    """We do not know who is calling."""

    status = 401
    code = "unauthenticated"


class Forbidden(AppError):
    """We know who is calling, and they may not."""

    status = 403
    code = "forbidden"


class NotFound(AppError):
    """There is no such thing, or none that this caller may know of."""

    status = 404
    code = "not_found"


class Conflict(AppError):
    """The request contradicts what is stored."""

    status = 409
    code = "conflict"


class Stale(AppError):
    """The caller changes what has moved since they read it."""

    status = 412
    code = "stale"


class InvalidRequest(AppError):
    """The request is well-formed and still means nothing here."""

    status = 422
    code = "invalid_request"


class Unavailable(AppError):
    """A dependency or a capacity is missing for a moment; the same request may work later."""

    status = 503
    code = "unavailable"
    retry_after_seconds = 1
