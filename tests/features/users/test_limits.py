"""How often an account may change its address and its password."""

import pytest

from app.settings import Settings
from tests.features.users.factory import PASSWORD, UserFactory
from tests.infra.web.test_rate_limit import client_at, limited

pytestmark = pytest.mark.usefixtures("clean")


async def test_taken_addresses_cannot_be_found_by_changing_the_own_one(settings: Settings) -> None:
    async with limited(settings, account_changes=3) as app:
        make = UserFactory(app.state.resources)
        ann, bob = await make.user(), await make.user()
        guess = {"email": bob.email, "current_password": PASSWORD}
        found = []
        for number in range(4):  # from another address each time
            address = f"203.0.113.{number}"
            async with client_at(app, address, headers=make.headers(ann)) as client:
                response = await client.patch("/v1/users/me", json=guess)
                found.append((response.status_code, response.json()["code"]))
        assert found == [(409, "email_taken")] * 3 + [(429, "rate_limited")]
        assert int(response.headers["retry-after"]) > 0


async def test_other_changes_of_the_account_are_not_limited_by_it(settings: Settings) -> None:
    async with limited(settings, account_changes=1) as app:
        make = UserFactory(app.state.resources)
        async with client_at(app, headers=make.headers(await make.user())) as client:
            for _ in range(3):
                assert (await client.patch("/v1/users/me", json={"bio": "B"})).status_code == 200


async def test_a_thief_of_a_token_cannot_use_the_changes_up(settings: Settings) -> None:
    async with limited(settings, account_changes=1) as app:
        make = UserFactory(app.state.resources)
        async with client_at(app, headers=make.headers(await make.user())) as client:
            change = {"email": "new@example.com", "current_password": "a wrong password"}
            for _ in range(3):
                assert (await client.patch("/v1/users/me", json=change)).status_code == 403
            change["current_password"] = PASSWORD
            assert (await client.patch("/v1/users/me", json=change)).status_code == 200
