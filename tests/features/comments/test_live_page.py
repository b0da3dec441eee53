"""The page that shows new comments, for the developers alone."""

import re
import socket
from collections.abc import Iterator
from pathlib import Path
from typing import NoReturn

import httpx2
import pytest

from app.errors import Unavailable
from app.infra.places import Places
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
def served(settings: Settings, clean: None) -> Iterator[Served]:
    with socket.create_server(("127.0.0.1", 0)) as listener:
        served = Served(settings, listener)
        with served.serving():
            yield served


@pytest.fixture
def browser(tmp_path: Path) -> Iterator[Browser]:
    with chromium(tmp_path / "profile") as browser:
        yield browser


STATE = "document.getElementById('state').textContent"
IDS = "[...document.querySelectorAll('li')].map((item) => item.dataset.id).join()"


class LivePage:
    """The page in a browser, and a user who comments on the post that it shows."""

    def __init__(self, served: Served, browser: Browser) -> None:
        make = CommentFactory(served.resources)
        author = served.run(make.user(name="<b>Ann</b>"))
        self.post = served.run(make.post(author))
        self.page = browser.open_page(f"{served.url}/live")
        self.page.wait_for("!!document.getElementById('state')")
        self.client = httpx2.Client(base_url=served.url, headers=make.headers(author))
        self._served = served

    def comment(self, body: str) -> str:
        response = self.client.post(f"/v1/posts/{self.post.id}/comments", json={"body": body})
        return str(response.raise_for_status().json()["id"])

    def wait_for_state(self, text: str) -> None:
        self.page.wait_for(f"{STATE} === '{text}'")

    def wait_for_comments(self, *ids: str) -> None:
        self.page.wait_for(f"{IDS} === '{','.join(reversed(ids))}'")

    def end_streams(self) -> None:
        async def end() -> None:
            server_shutdown.begin()

        self._served.run(end())

    def start_again(self) -> None:
        self._served.app.state.event_hub.is_ending = False  # as the next worker


@pytest.fixture
def live(served: Served, browser: Browser) -> Iterator[LivePage]:
    live = LivePage(served, browser)
    with live.client:
        live.wait_for_state("Connected")
        yield live


@pytest.mark.skipif(CHROMIUM is None, reason="chromium is not installed")
def test_comments_appear_in_a_browser_which_reconnects_and_misses_none(live: LivePage) -> None:
    shown = [live.comment("<img src=x onerror=alert(1)>"), live.comment("Two")]
    live.wait_for_comments(*shown)
    assert live.page.evaluate("document.querySelectorAll('li b, li img').length") == 0
    assert "<b>Ann</b>" in live.page.evaluate("document.querySelector('li').textContent")
    live.end_streams()
    live.wait_for_state("Reconnecting …")
    shown.append(live.comment("While the page is not connected"))
    live.start_again()
    live.wait_for_comments(*shown)
    assert live.client.delete(f"/v1/posts/{live.post.id}").status_code == 204
    live.wait_for_state("The post was deleted")


@pytest.mark.skipif(CHROMIUM is None, reason="chromium is not installed")
def test_page_that_was_refused_goes_on_where_it_was(
    live: LivePage, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A browser gives up after 503, and the page has had no comment whose id it could send."""

    def refuse(*_: object) -> NoReturn:
        raise Unavailable("This process has reached its limit.")

    with monkeypatch.context() as patch:
        patch.setattr(Places, "take", refuse)
        live.end_streams()
        live.start_again()
        live.wait_for_state("Not available. Trying again in 10 s")
        missed = live.comment("While the page was refused")
    live.wait_for_comments(missed)
