"""What the tests of the contract know of `auth`.

A caller is the owner of the credentials in the body, whatever the headers are.
"""

from typing import Any

from tests.contract.callers import Caller
from tests.contract.declaration import Contract, Route
from tests.features.users.factory import PASSWORD


def credentials(caller: Caller) -> dict[str, Any]:
    return {"data": {"username": caller.email, "password": PASSWORD}}


def refresh_token(caller: Caller) -> dict[str, Any]:
    return {"json": {"refresh_token": caller.refresh_token}}


CONTRACT = Contract(
    {
        "POST /v1/auth/token": Route(
            *(200, 200, 400, 400),
            drops=(),
            content=credentials,
            cache_control="no-store",
            has_oauth_errors=True,
        ),
        "POST /v1/auth/refresh": Route(
            *(200, 200, 401, 401),
            drops=(),
            content=refresh_token,
            has_example=False,
            cache_control="no-store",
        ),
        "POST /v1/auth/logout": Route(
            204, 204, 204, 204, drops=(), content=refresh_token, has_example=False
        ),
    },
    schemas=frozenset({"Token"}),
)
