"""The mailbox shows the mails of development, to clients in METRICS_NETWORKS."""

import re
from collections.abc import AsyncIterator
from pathlib import Path

import httpx2
import pytest
from fastapi import FastAPI

from app.infra.mail.folder import list_mails
from app.infra.mail.message import Mail
from app.infra.resources import ProcessResources
from app.settings import Settings
from tests.application import client_of, running

Client = httpx2.AsyncClient

PRODUCTION = {"environment": "production", "auth": {"secret": "long enough for production" * 2}}
MAIL = Mail(
    "ann@example.com",
    "A <b>subject</b>",
    "Follow http://127.0.0.1/page#token=a&b=<script>\n",
    '<p>Follow <a href="http://127.0.0.1/page#token=a">this</a></p><script>alert(1)</script>',
)


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    return tmp_path / "mails"


@pytest.fixture
async def app(settings: Settings, folder: Path) -> AsyncIterator[FastAPI]:
    values = settings.model_dump()
    async with running(Settings.model_validate({**values, "mail": {"folder": folder}})) as app:
        yield app


@pytest.fixture
async def resources(app: FastAPI) -> ProcessResources:
    opened: ProcessResources = app.state.resources
    return opened


@pytest.fixture
async def client(app: FastAPI) -> AsyncIterator[Client]:
    async with client_of(app) as client:
        yield client


async def test_mailbox_is_empty_before_the_first_mail(client: Client) -> None:
    response = await client.get("/mailbox")
    assert response.status_code == 200
    assert "There are no mails yet" in response.text


@pytest.mark.parametrize("path", ["/mailbox", "/mailbox/"])
async def test_links_of_the_mailbox_lead_to_its_mails(
    client: Client, resources: ProcessResources, path: str
) -> None:
    await resources.mailer.send(MAIL)
    listed = await client.get(path)
    [link] = re.findall(r'href="([^"]*mails/[^"]*)"', listed.text)
    assert (await client.get(listed.url.join(link))).status_code == 200


async def test_newest_mail_is_first(client: Client, resources: ProcessResources) -> None:
    for subject in ("First", "Second"):
        await resources.mailer.send(Mail("ann@example.com", subject, "", ""))
    page = (await client.get("/mailbox")).text
    assert page.index("Second") < page.index("First")


async def test_mail_is_shown_with_a_link_in_its_text(
    client: Client, resources: ProcessResources, folder: Path
) -> None:
    await resources.mailer.send(MAIL)
    [mail_id] = list_mails(folder)
    listed = (await client.get("/mailbox")).text
    assert f'href="mailbox/mails/{mail_id}"' in listed
    assert "A &lt;b&gt;subject&lt;/b&gt;" in listed
    page = await client.get(f"/mailbox/mails/{mail_id}")
    assert '<a href="http://127.0.0.1/page#token=a&amp;b=' in page.text
    assert "<script" not in page.text


async def test_html_of_a_mail_is_in_a_sandbox(
    client: Client, resources: ProcessResources, folder: Path
) -> None:
    await resources.mailer.send(MAIL)
    [mail_id] = list_mails(folder)
    page = await client.get(f"/mailbox/mails/{mail_id}")
    assert 'sandbox="allow-popups allow-popups-to-escape-sandbox"' in page.text
    html = await client.get(f"/mailbox/mails/{mail_id}/html")
    policy = html.headers["content-security-policy"]
    assert "default-src 'none'" in policy
    assert "script-src" not in policy
    assert "sandbox allow-popups allow-popups-to-escape-sandbox" in policy
    assert "allow-scripts" not in policy + page.text
    assert html.text.startswith('<base target="_blank">')


async def test_missing_mail_is_404(client: Client) -> None:
    for path in ("/mailbox/mails/1", "/mailbox/mails/1/html", "/mailbox/mails/..%2f1"):
        assert (await client.get(path)).status_code in (404, 422)


async def test_files_are_for_this_user_only(resources: ProcessResources, folder: Path) -> None:
    await resources.mailer.send(MAIL)
    modes = [path.stat().st_mode & 0o777 for path in (folder, *folder.iterdir())]
    assert modes == [0o700, 0o600]


@pytest.mark.parametrize(
    ("metrics", "port", "status"),
    [
        ({"networks": "10.0.0.0/8"}, 80, 404),
        ({"networks": "10.0.0.0/8", "port": 9100}, 9100, 404),
        ({"port": 9100}, 80, 200),
        ({"enabled": False}, 80, 200),
    ],
    ids=["another network", "another network on the port of the metrics", "a port", "no metrics"],
)
async def test_networks_of_the_metrics_alone_decide_who_sees_the_mailbox(
    settings: Settings, folder: Path, metrics: dict[str, object], port: int, status: int
) -> None:
    values = {**settings.model_dump(), "mail": {"folder": folder}, "metrics": metrics}
    async with running(Settings.model_validate(values)) as app, client_of(app) as client:
        await app.state.resources.mailer.send(MAIL)
        [mail_id] = list_mails(folder)
        for path in ("", "/", f"/mails/{mail_id}", f"/mails/{mail_id}/html"):
            url = f"http://test:{port}/mailbox{path}"
            assert (await client.get(url)).status_code == status


async def test_production_has_no_mailbox(settings: Settings) -> None:
    values = settings.model_dump(exclude={"mail", "environment", "auth"})
    async with (
        running(Settings.model_validate({**values, **PRODUCTION})) as app,
        client_of(app) as client,
    ):
        assert (await client.get("/mailbox")).status_code == 404
