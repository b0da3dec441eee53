"""Runs a request once for each key, and keeps its answer for a day.

The row is written in the transaction of the request. So an answer is kept if and only if the change
was committed, and there is no state in between that a crash could leave behind.
"""

from dataclasses import asdict, dataclass

from sqlalchemy.ext.asyncio import AsyncSession

from app.errors import Conflict, InvalidRequest
from app.features.idempotency import queries
from app.infra.observability.metrics import IDEMPOTENT_REQUESTS
from app.infra.validation.fields import KIB

LARGEST_BODY = 1024 * KIB


class KeyInUse(Conflict):
    """A request with this key is still running."""

    code = "idempotency_key_in_use"
    retry_after_seconds = 1


class KeyReused(InvalidRequest):
    """The key belongs to another request."""

    code = "idempotency_key_reused"


class AnswerTooLarge(InvalidRequest):
    """The answer is too large to be kept. The request has been undone."""

    code = "idempotency_answer_too_large"


@dataclass(frozen=True, slots=True)
class Answer:
    """A response as it was sent: its own headers, and the exact bytes of its body."""

    status: int
    headers: list[list[str]]
    body: bytes


async def begin(session: AsyncSession, user_id: int, key: str, fingerprint: bytes) -> Answer | None:
    """Lock the key until the transaction ends. Return the answer if there is one already.

    Raises `KeyInUse` if another request holds the key and there is no answer yet, and `KeyReused`
    if the answer is one to another request.
    """
    is_locked = await queries.try_lock(session, user_id, key)
    row = await queries.get_key(session, user_id, key)
    if row is None:
        if not is_locked:
            raise _in_use()
        return None
    if row.fingerprint != fingerprint:
        IDEMPOTENT_REQUESTS.labels("reused").inc()
        raise KeyReused(
            "This Idempotency-Key was used for another request. Choose a new key for each request."
        )
    IDEMPOTENT_REQUESTS.labels("replayed").inc()
    return Answer(row.status, row.headers, row.body)


async def keep(
    session: AsyncSession, user_id: int, key: str, fingerprint: bytes, answer: Answer
) -> None:
    """Store the answer in the transaction of the request."""
    if len(answer.body) > LARGEST_BODY:
        raise AnswerTooLarge(
            "The answer is too large to be kept for a retry, so nothing was changed. Send the "
            "request without an Idempotency-Key."
        )
    values = {"user_id": user_id, "key": key, "fingerprint": fingerprint, **asdict(answer)}
    if not await queries.insert_key(session, values):
        if await queries.get_key(session, user_id, key) is not None:
            raise _in_use()
        return  # the account has been deleted, perhaps by this request: its token is refused now
    IDEMPOTENT_REQUESTS.labels("kept").inc()


def _in_use() -> KeyInUse:
    IDEMPOTENT_REQUESTS.labels("in_use").inc()
    return KeyInUse("A request with this Idempotency-Key is still running. Try again.")
