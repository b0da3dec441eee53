"""The page that shows new comments, for the developers alone."""

import re
import socket
from collections.abc import Iterator
from pathlib import Path

import httpx2
import pytest

from app.infra.shutdown import server_shutdown
from app.infra.web.response_headers import content_hash
from app.settings import Settings
from tests.application import client_of, running
from tests.browser import CHROMIUM, Browser, chromium
from tests.contract.serving import Served
from tests.features.comments.factory import CommentFactory

Client = httpx2.AsyncClient

PRODUCTION = {
    "environment": "production",
    "auth": {"secret": "long enough for production" * 2},
    "mail": {"folder": None},  # production refuses that of the tests
}


async def test_page_loads_nothing_from_other_hosts(client: Client) -> None:
    response = await client.get("/live")
    assert response.status_code == 200
    assert re.findall(r"//[\w-]+\.[\w.-]+", response.text) == []


async def test_policy_allows_only_the_script_and_style_of_the_page(client: Client) -> None:
    response = await client.get("/live")
    policy = response.headers["content-security-policy"]
    assert "default-src 'none'" in policy
    assert "unsafe" not in policy
    for name in ("script", "style"):
        [content] = re.findall(rf"<{name}>(.*?)</{name}>", response.text, re.DOTALL)
        assert f"{name}-src '{content_hash(content)}'" in policy


@pytest.mark.slow
@pytest.mark.parametrize(
    "given", [PRODUCTION, {"metrics": {"networks": "10.0.0.0/8"}}, {"metrics": {"enabled": False}}]
)
async def test_page_is_hidden_from_all_others(
    settings: Settings, clean: None, given: dict[str, object]
) -> None:
    values = settings.model_dump()
    for name, section in given.items():
        values[name] = {**values[name], **section} if isinstance(section, dict) else section
    async with running(Settings.model_validate(values)) as app, client_of(app) as client:
        assert (await client.get("/live")).status_code == 404


@pytest.fixture
def served(settings: Settings, clean: None, own_shutdown: None) -> Iterator[Served]:
    with socket.create_server(("127.0.0.1", 0)) as listener:
        served = Served(settings, listener)
        with served.serving():
            yield served


@pytest.fixture
def browser(tmp_path: Path) -> Iterator[Browser]:
    with chromium(tmp_path / "profile") as browser:
        yield browser


@pytest.mark.skipif(CHROMIUM is None, reason="chromium is not installed")
def test_comments_appear_in_a_browser_which_reconnects_and_misses_none(
    served: Served, browser: Browser
) -> None:
    make = CommentFactory(served.resources)
    author = served.run(make.user(name="<b>Ann</b>"))
    post = served.run(make.post(author))
    headers = make.headers(author)
    page = browser.open_page(f"{served.url}/live")
    page.wait_for("!!document.getElementById('state')")
    page.wait_for("document.getElementById('state').textContent === 'Connected'")
    hub = served.app.state.event_hub

    with httpx2.Client(base_url=served.url, headers=headers) as client:

        def comment(body: str) -> str:
            response = client.post(f"/v1/posts/{post.id}/comments", json={"body": body})
            return str(response.raise_for_status().json()["id"])

        shown = [comment("<img src=x onerror=alert(1)>"), comment("Two")]
        ids = "[...document.querySelectorAll('li')].map((item) => item.dataset.id).join()"
        page.wait_for(f"{ids} === '{','.join(reversed(shown))}'")
        assert page.evaluate("document.querySelectorAll('li b, li img').length") == 0
        assert "<b>Ann</b>" in page.evaluate("document.querySelector('li').textContent")

        async def end_streams() -> None:
            server_shutdown.begin()

        served.run(end_streams())
        page.wait_for("document.getElementById('state').textContent === 'Reconnecting …'")
        shown.append(comment("While the page is not connected"))
        hub.is_ending = False  # as the next worker
        page.wait_for(f"{ids} === '{','.join(reversed(shown))}'")
        assert client.delete(f"/v1/posts/{post.id}").status_code == 204
        page.wait_for("document.getElementById('state').textContent === 'The post was deleted'")
