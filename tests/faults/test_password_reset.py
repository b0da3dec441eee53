"""Password reset: what the time of a request reveals."""

import pytest

from tests.faults.conftest import Judge, Serve
from tests.faults.load import Answer, register, timed, unexpected
from tests.faults.test_logins import PAIRS, auc
from tests.faults.verdicts import GUARDED

pytestmark = pytest.mark.faults
PATH = "/v1/auth/password-reset"


@pytest.mark.parametrize("control", [GUARDED, "with a job for known addresses only"])
async def test_the_time_of_a_reset_request_does_not_tell_whether_the_account_exists(
    serve: Serve, judge: Judge, control: str
) -> None:
    async with serve(control) as service:
        known, _ = await register(service.client)
        times: dict[str, list[float]] = {known: [], "nobody@example.com": []}
        answers: list[Answer] = []
        for _ in range(PAIRS):
            for email, taken in times.items():
                body = {"email": email}
                answers.append(await timed(service.client, "POST", PATH, json=body))
                taken.append(answers[-1].seconds)
    area = auc(*times.values())
    told = [f"AUC {area:.3f}: the time shows which accounts exist"] * (not 0.45 <= area <= 0.55)
    judge(
        "Times of password resets are compared for known and unknown addresses",
        control,
        f"AUC {area:.3f} of {2 * PAIRS} alternating requests (0.5: the times do not differ)",
        [*told, *unexpected(answers, (202,))],
    )
