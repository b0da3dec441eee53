"""Requests that Schemathesis generates are answered as the OpenAPI document says.

No answer is a 5xx, and each status and body is documented. The requests are the same each time.
FUZZ_EXAMPLES=2000 makes that many random ones for each call.
"""

import os
from copy import deepcopy
from typing import Any

import pytest
import schemathesis
from hypothesis import HealthCheck, settings
from schemathesis import Response
from schemathesis.specs.openapi.checks import positive_data_acceptance
from sqlalchemy import text

from app.features.users.models import User
from tests.contract.document import DOCUMENT
from tests.contract.features import ROWS, make_rows
from tests.contract.serving import Served
from tests.tables import SERVICE_TABLES, delete_rows

MORE = os.environ.get("FUZZ_EXAMPLES")
CALLS = settings(
    max_examples=int(MORE or 20),
    derandomize=not MORE,
    database=None,
    deadline=None,
    suppress_health_check=list(HealthCheck),
)
CHAINS = settings(CALLS, max_examples=max(5, CALLS.max_examples // 10))
Case = schemathesis.Case[Any]
# The credentials of the example in the document, so that the example logs in.
DEMO = {"email": "demo@example.com", "password": "demo-password"}
EMPTY = text(delete_rows(SERVICE_TABLES))

# Pictures are sent as they are generated.
PICTURES = [f"image/{name}" for name in ("avif", "gif", "jpeg", "png", "webp")]
schemathesis.serializer.alias(PICTURES, "application/octet-stream")

schema = schemathesis.openapi.from_dict(deepcopy(DOCUMENT))  # it adds the links that it finds


class Caller:
    """Sends generated requests to a service that holds one account, and one row of everything."""

    def __init__(self, served: Served) -> None:
        self._served = served
        self._user = served.run(self.begin())

    async def begin(self) -> User:
        """Begin anew, and return the account."""
        make = self._served.make
        async with make.resources.database.transaction() as session:
            await session.execute(EMPTY)
        hashed = await make.resources.passwords.hash(DEMO["password"])
        user = await make.user(email=DEMO["email"], password_hash=hashed)
        await make_rows(self._served.resources, user)
        return user

    def how_to_call(self, case: Case, *, signed_in: bool) -> dict[str, Any]:
        """Return the arguments of a case. Each case that ends its account has one of its own."""
        make, user = self._served.make, self._user
        if ROWS[case.operation.label].ends_account:
            user = self._served.run(make.user())
        headers = make.headers(user) if signed_in else None
        return {"base_url": self._served.url, "headers": headers}


@pytest.fixture
def caller(served: Served) -> Caller:
    return Caller(served)


def judge(case: Case, response: Response, arguments: dict[str, Any]) -> None:
    """Run all checks of Schemathesis. A refusal that no schema can express is allowed."""
    case.validate_response(
        response,
        headers=arguments["headers"],
        excluded_checks=[positive_data_acceptance] if is_beyond_a_schema(response) else [],
        transport_kwargs=arguments,
    )


def is_beyond_a_schema(response: Response) -> bool:
    """Whether the refusal is of a stale version, an invented cursor, a domain without mail, wrong
    credentials, a key of another request, or a file that is no picture.
    """
    if response.status_code in (412, 415):
        return True
    if response.status_code == 400:
        return bool(response.json().get("error") == "invalid_grant")
    if response.status_code != 422:
        return False
    problem = response.json()
    kinds = [error["type"] for error in problem.get("errors", [])]
    codes = ("invalid_cursor", "idempotency_key_reused")
    return problem["code"] in codes or kinds == ["email"]


@pytest.mark.parametrize("signed_in", [False, True], ids=["a stranger", "an account"])
@schema.parametrize()
@CALLS
def test_every_call_is_answered_as_documented(case: Case, caller: Caller, signed_in: bool) -> None:
    arguments = caller.how_to_call(case, signed_in=signed_in)
    judge(case, case.call(**arguments), arguments)


def test_chains_of_calls_are_answered_as_documented(served: Served) -> None:
    class Chains(schema.as_state_machine()):  # type: ignore[misc]
        def setup(self) -> None:
            self.caller = Caller(served)

        def get_call_kwargs(self, case: Case) -> dict[str, Any]:
            return self.caller.how_to_call(case, signed_in=True)

        def validate_response(self, response: Response, case: Case, **_: Any) -> None:
            judge(case, response, self.get_call_kwargs(case))

    Chains.run(settings=CHAINS)
