"""A mail arrives although the mail server was away for hours, and its link is valid."""

from datetime import timedelta

import httpx2
import pytest
from sqlalchemy import text

from app.infra.mail.message import Mail
from app.infra.resources import ProcessResources
from tests.features.account_mails.inbox import Inbox
from tests.features.users.factory import UserFactory
from tests.jobs import queued, run_jobs

PAUSE = text("SELECT execute_after - now() FROM pgqueuer WHERE status = 'queued'")
PASSED = text("UPDATE pgqueuer SET execute_after = now()")


async def next_pause(resources: ProcessResources) -> timedelta:
    """Return the pause before the next delivery of the only job, and let it pass."""
    async with resources.database.transaction() as session:
        pause = await session.scalar(PAUSE)
        assert pause is not None, "the job does not run again"
        await session.execute(PASSED)
    return timedelta(seconds=pause.total_seconds())


async def test_mail_survives_twelve_hours_without_a_mail_server(
    client: httpx2.AsyncClient, inbox: Inbox, make: UserFactory, monkeypatch: pytest.MonkeyPatch
) -> None:
    user = await make.user()
    asked = await client.post("/v1/users/me/verification", headers=make.headers(user))
    assert asked.status_code == 202
    waited, pauses = timedelta(), []

    async def refuse(_mail: Mail) -> None:
        raise ConnectionRefusedError

    with monkeypatch.context() as away:
        away.setattr(make.resources.mailer, "send", refuse)
        while waited < timedelta(hours=12):
            assert await run_jobs(make.resources) == ["account_mails.send_verification"]
            pauses.append(await next_pause(make.resources))
            waited += pauses[-1]
    assert pauses[0] < timedelta(seconds=10)
    assert pauses[-1] > timedelta(minutes=40)
    token = await inbox.token(user.email, "verify-email")
    assert await queued(make.resources) == []
    verified = await client.post("/v1/auth/verification", json={"token": token})
    assert verified.status_code == 204
