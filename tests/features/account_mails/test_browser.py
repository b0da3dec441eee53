"""In Chromium: a person registers, follows the links of the mails in the mailbox, and logs in."""

import socket
from collections.abc import Iterator
from pathlib import Path

import httpx2
import pytest

from app.settings import Settings
from tests.browser import CHROMIUM, Browser, Page, chromium
from tests.contract.serving import Served
from tests.jobs import run_jobs

pytestmark = pytest.mark.skipif(CHROMIUM is None, reason="chromium is not installed")

ACCOUNT = {"email": "ann@example.com", "name": "Ann", "password": "correct horse"}
NEW_PASSWORD = "another horse"


@pytest.fixture
def served(settings: Settings, clean: None, tmp_path: Path) -> Iterator[Served]:
    """The service, whose mails link to its own mailbox."""
    with socket.create_server(("127.0.0.1", 0)) as listener:
        links_url = f"http://127.0.0.1:{listener.getsockname()[1]}/mailbox"
        mail = {"folder": tmp_path / "mails", "links_url": links_url}
        values = {**settings.model_dump(), "mail": mail}
        served = Served(Settings.model_validate(values), listener)
        with served.serving():
            yield served


@pytest.fixture
def browser(tmp_path: Path) -> Iterator[Browser]:
    with chromium(tmp_path / "profile") as browser:
        yield browser


def open_newest_mail(browser: Browser, served: Served) -> Page:
    served.run(run_jobs(served.resources))
    page = browser.open_page(f"{served.url}/mailbox")
    page.wait_for("document.readyState === 'complete' && !!document.querySelector('td a')")
    page.evaluate("document.querySelector('td a').click()")
    page.wait_for("document.readyState === 'complete' && !!document.querySelector('iframe')")
    return page


def submit(page: Page) -> str:
    """Press the button of the page, and return what the page then says."""
    page.wait_for("document.readyState === 'complete' && !!document.querySelector('button')")
    page.evaluate("document.querySelector('button').click()")
    said = page.wait_for("document.getElementById('result').textContent")
    assert page.evaluate("location.hash") == "", "the token is still in the address"
    return str(said)


def test_address_is_verified_and_password_is_reset_through_the_mailbox(
    served: Served, browser: Browser
) -> None:
    with httpx2.Client(base_url=served.url) as client:
        assert client.post("/v1/users", json=ACCOUNT).status_code == 201
        mail = open_newest_mail(browser, served)
        page = mail.click_link("Confirm the address")  # in the frame with the HTML
        page.wait_for("document.body?.textContent.includes('You need not be logged in.')")
        assert submit(page) == "Your e-mail address is confirmed."

        reset = client.post("/v1/auth/password-reset", json={"email": ACCOUNT["email"]})
        assert reset.status_code == 202
        mail = open_newest_mail(browser, served)
        page = mail.click_link("/mailbox/reset-password#token=")  # in the text
        page.wait_for("!!document.querySelector('input')")
        page.evaluate(f"document.querySelector('input').value = '{NEW_PASSWORD}'")
        assert submit(page) == "Your password is changed. Log in with it."

        form = {"username": ACCOUNT["email"], "password": NEW_PASSWORD}
        token = client.post("/v1/auth/token", data=form).raise_for_status().json()["access_token"]
        me = client.get("/v1/users/me", headers={"Authorization": f"Bearer {token}"}).json()
        assert me["verified"] is True

        assert page.evaluate("document.querySelector('form')") is None, "it could be sent again"
        page = mail.click_link("/mailbox/reset-password#token=")  # once more
        page.wait_for("!!document.querySelector('input')")
        page.evaluate(f"document.querySelector('input').value = '{NEW_PASSWORD}'")
        assert "The token is not valid" in submit(page)

        page = browser.open_page(f"{served.url}/mailbox/verify-email")
        page.wait_for("document.body?.textContent.includes('the link in the mail')")
