"""Without MAIL_URL, clients get the same answers, and nothing waits for a mail server."""

import pytest
from sqlalchemy import func, select

from app.features.account_mails.models import AccountMail
from app.settings import Settings
from tests.application import client_of, running
from tests.features.users.factory import PASSWORD, UserFactory
from tests.jobs import queued

ANN = {"email": "ann@example.com", "name": "Ann", "password": PASSWORD}


@pytest.fixture
def without(settings: Settings) -> Settings:
    """The settings of production with no mail server."""
    values = {**settings.model_dump(), "environment": "production", "mail": {}}
    values["auth"]["secret"] = "a secret of production, which is long enough"
    return Settings.model_validate(values)


async def test_answers_are_the_same_and_no_mail_is_enqueued(without: Settings, clean: None) -> None:
    async with running(without) as app, client_of(app) as client:
        make = UserFactory(app.state.resources)
        assert (await client.post("/v1/users", json=ANN)).status_code == 201
        headers = make.headers(await make.user())
        change = {"email": "new@example.com", "current_password": PASSWORD}
        changed = await client.patch("/v1/users/me", json=change, headers=headers)
        assert (changed.status_code, changed.json()["verified"]) == (200, False)
        again = await client.post("/v1/users/me/verification", headers=headers)
        assert (again.status_code, again.content) == (202, b"")
        for email in (ANN["email"], "unknown@example.com"):
            asked = await client.post("/v1/auth/password-reset", json={"email": email})
            assert (asked.status_code, asked.content) == (202, b"")
        assert await queued(make.resources) == []
        async with make.resources.database.read() as session:
            assert await session.scalar(select(func.count()).select_from(AccountMail)) == 0
