"""Mails reach a mail server, over one connection, and over TLS where there is a password."""

import asyncio
import socket
import ssl
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path

import pytest
from aiosmtplib import SMTPException
from prometheus_client import REGISTRY

from app.errors import PermanentError, Unavailable
from app.infra.mail.folder import list_mails, read_mail
from app.infra.mail.mailer import Mailer, open_mailer
from app.infra.mail.message import Mail, MailTemplates
from app.infra.mail.settings import MailSettings
from tests.infra.mail.server import Inbox, mail_server
from tests.tls import make_certificate

MAIL = Mail("ann@example.com", "Hello", "As text\n", "<p>As HTML</p>\n")


@asynccontextmanager
async def mailer_of(url: str, *, seconds: float = 60) -> AsyncIterator[Mailer]:
    settings = {"url": url, "from": "Shop <shop@example.com>", "timeout_seconds": seconds}
    mailer = open_mailer(MailSettings.model_validate(settings))
    try:
        yield mailer
    finally:
        await mailer.close()


@pytest.fixture
async def inbox() -> AsyncIterator[Inbox]:
    async with mail_server() as inbox:
        yield inbox


@pytest.fixture
async def mailer(inbox: Inbox) -> AsyncIterator[Mailer]:
    async with mailer_of(f"smtp://127.0.0.1:{inbox.port}") as mailer:
        yield mailer


@pytest.fixture(scope="module")
def certificate(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return make_certificate(tmp_path_factory.mktemp("certificate"))


@pytest.fixture
def tls(certificate: Path, monkeypatch: pytest.MonkeyPatch) -> ssl.SSLContext:
    """The context of a server. Its certificate is trusted."""
    monkeypatch.setenv("SSL_CERT_FILE", str(certificate))
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.load_cert_chain(certificate, certificate.with_name("key.pem"))
    return context


async def test_mail_arrives_as_text_and_as_html(mailer: Mailer, inbox: Inbox) -> None:
    await mailer.send(MAIL)
    [received] = inbox.mails
    assert received["To"] == "ann@example.com"
    assert received["From"] == "Shop <shop@example.com>"
    assert received["Subject"] == "Hello"
    assert received["Auto-Submitted"] == "auto-generated"
    assert received["Message-ID"].endswith("@example.com>")
    text, html = received.get_body(("plain",)), received.get_body(("html",))
    assert text is not None
    assert html is not None
    assert (text.get_content().strip(), html.get_content().strip()) == (
        "As text",
        "<p>As HTML</p>",
    )


async def test_mails_share_a_connection(mailer: Mailer, inbox: Inbox) -> None:
    await asyncio.gather(*(mailer.send(MAIL) for _ in range(5)))
    assert len(inbox.mails) == 5
    assert inbox.connections == 1


async def test_mailer_connects_again_after_the_server_was_restarted(
    inbox: Inbox, mailer: Mailer
) -> None:
    await mailer.send(MAIL)
    inbox.disconnect()
    await asyncio.sleep(0.1)
    await mailer.send(MAIL)
    assert (len(inbox.mails), inbox.connections) == (2, 2)


REFUSED_RECIPIENTS = [
    ("to_recipient", "550 No such mailbox"),
    ("to_recipient", "554 Rejected"),
    ("to_recipient", "550 <ann@example.com>: no such user"),
    ("to_recipient", "550 5.1.1 <ann@example.com>: User unknown"),
    ("to_recipient", "501 5.1.3 Bad recipient address syntax"),
    ("to_recipient", "552 5.2.2 Mailbox full"),
    ("to_recipient", "556 5.1.10 The domain takes no mail"),
    ("to_recipient", "550-5.1.1 The account does not exist.\r\n550 5.1.1 Look for typing errors."),
    ("to_data", "550 5.1.1 User unknown"),
    ("to_data", "552 5.2.2 Mailbox full"),
]
OUR_FAULTS = [
    ("to_sender", "550 5.1.1 Sender unknown"),
    ("to_sender", "553 5.7.1 Sender address rejected: not owned by user"),
    ("to_recipient", "554 5.7.1 <ann@example.com>: Relay access denied"),
    ("to_recipient", "550 Relaying denied"),
    ("to_recipient", "530 5.7.0 Authentication required"),
    ("to_recipient", "530 Authentication required"),
    ("to_recipient", "553 5.1.8 Sender address rejected: domain not found"),
    ("to_recipient", "553 The domain is not in the list of allowed rcpthosts (#5.7.1)"),
    ("to_recipient", "503 Bad sequence of commands"),
    ("to_data", "554 Rejected"),
    ("to_data", "550 No such mailbox"),
    ("to_data", "550 5.7.1 The content looks like spam"),
]


def counted(result: str) -> float:
    return REGISTRY.get_sample_value("mails_total", {"result": result}) or 0


@pytest.mark.parametrize(("command", "reply"), REFUSED_RECIPIENTS)
async def test_mail_to_a_recipient_that_is_refused_for_good_is_dropped_and_counted(
    mailer: Mailer, inbox: Inbox, caplog: pytest.LogCaptureFixture, command: str, reply: str
) -> None:
    setattr(inbox, command, reply)
    before = counted("refused"), counted("failed")
    await mailer.send(MAIL)
    assert (counted("refused"), counted("failed")) == (before[0] + 1, before[1])
    assert f"refuses its recipient for good: its reply is {reply[:3]}" in caplog.text
    assert "ann" not in caplog.text
    setattr(inbox, command, "250 OK")
    await mailer.send(MAIL)
    assert len(inbox.mails) == 1


@pytest.mark.parametrize(("command", "reply"), OUR_FAULTS)
async def test_refusal_that_is_not_about_the_recipient_is_a_failure_and_shows_no_address(
    mailer: Mailer, inbox: Inbox, command: str, reply: str
) -> None:
    setattr(inbox, command, reply)
    before = counted("failed")
    with pytest.raises(PermanentError, match=reply[:3]) as failed:
        await mailer.send(MAIL)
    assert "ann" not in str(failed.value)
    assert counted("failed") == before + 1
    setattr(inbox, command, "250 OK")
    await mailer.send(MAIL)
    assert len(inbox.mails) == 1


async def test_words_in_the_address_do_not_make_a_refusal_our_fault(
    mailer: Mailer, inbox: Inbox
) -> None:
    inbox.to_recipient = "550 <relay-sender@example.com> is unknown here"
    await mailer.send(Mail("relay-sender@example.com", "Hello", "Text", "HTML"))
    assert inbox.mails == []


@pytest.mark.parametrize("command", ["to_recipient", "to_data"])
async def test_refusal_for_now_is_not_permanent(mailer: Mailer, inbox: Inbox, command: str) -> None:
    setattr(inbox, command, "451 Try again later")
    with pytest.raises(SMTPException):
        await mailer.send(MAIL)
    setattr(inbox, command, "250 OK")
    await mailer.send(MAIL)
    assert len(inbox.mails) == 1


async def test_server_that_is_away_is_not_permanent() -> None:
    with socket.socket() as unused:
        unused.bind(("127.0.0.1", 0))
        async with mailer_of(f"smtp://127.0.0.1:{unused.getsockname()[1]}") as mailer:
            with pytest.raises((SMTPException, OSError)):
                await mailer.send(MAIL)


async def test_server_that_does_not_answer_is_left_after_the_timeout() -> None:
    with socket.create_server(("127.0.0.1", 0)) as silent:
        url = f"smtp://127.0.0.1:{silent.getsockname()[1]}"
        async with mailer_of(url, seconds=0.2) as mailer:
            with pytest.raises((SMTPException, TimeoutError)):
                await mailer.send(MAIL)


async def test_password_is_sent_after_starttls(tls: ssl.SSLContext) -> None:
    async with (
        mail_server(tls) as inbox,
        mailer_of(f"smtp://ann:p%40ss@localhost:{inbox.port}") as mailer,
    ):
        await mailer.send(MAIL)
    assert inbox.logins == [("ann", "p@ss", True)]


async def test_password_is_sent_over_tls_from_the_start(tls: ssl.SSLContext) -> None:
    async with (
        mail_server(tls, starts_with_tls=True) as inbox,
        mailer_of(f"smtps://ann:secret@localhost:{inbox.port}") as mailer,
    ):
        await mailer.send(MAIL)
    assert inbox.logins == [("ann", "secret", True)]


async def test_password_is_not_sent_without_tls(inbox: Inbox) -> None:
    async with mailer_of(f"smtp://ann:secret@127.0.0.1:{inbox.port}") as mailer:
        with pytest.raises(SMTPException):
            await mailer.send(MAIL)
    assert (inbox.logins, inbox.mails) == ([], [])


async def test_password_is_sent_without_tls_if_the_url_says_so(inbox: Inbox) -> None:
    async with mailer_of(f"smtp://ann:secret@127.0.0.1:{inbox.port}?tls=none") as mailer:
        await mailer.send(MAIL)
    assert inbox.logins == [("ann", "secret", False)]


async def test_certificate_of_the_server_is_checked(
    tls: ssl.SSLContext, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.delenv("SSL_CERT_FILE")
    async with (
        mail_server(tls) as inbox,
        mailer_of(f"smtp://ann:secret@localhost:{inbox.port}") as mailer,
    ):
        with pytest.raises((SMTPException, ssl.SSLError)):
            await mailer.send(MAIL)
    assert inbox.logins == []


async def test_mail_that_waits_for_slow_mails_before_it_does_not_time_out(inbox: Inbox) -> None:
    inbox.seconds = 0.3
    async with mailer_of(f"smtp://127.0.0.1:{inbox.port}", seconds=2) as mailer:
        await asyncio.gather(*(mailer.send(MAIL) for _ in range(10)))
    assert (len(inbox.mails), inbox.connections) == (10, 1)


async def test_mails_that_wait_while_the_server_is_not_reached_fail_with_the_first_one() -> None:
    with socket.create_server(("127.0.0.1", 0)) as silent:
        url = f"smtp://127.0.0.1:{silent.getsockname()[1]}"
        async with mailer_of(url, seconds=0.2) as mailer:
            failed = await asyncio.gather(
                *(mailer.send(MAIL) for _ in range(5)), return_exceptions=True
            )
            assert [type(error) is Unavailable for error in failed] == [False] + [True] * 4
            with pytest.raises((SMTPException, TimeoutError)):  # this one tries again
                await mailer.send(MAIL)


async def test_mails_that_wait_while_the_server_does_not_answer_fail_with_the_first_one(
    inbox: Inbox,
) -> None:
    async with mailer_of(f"smtp://127.0.0.1:{inbox.port}", seconds=2) as mailer:
        await mailer.send(MAIL)
        inbox.seconds = 60
        failed = await asyncio.gather(
            *(mailer.send(MAIL) for _ in range(5)), return_exceptions=True
        )
        assert [type(error) is Unavailable for error in failed] == [False] + [True] * 4
        inbox.seconds = 0
        await mailer.send(MAIL)
    assert len(inbox.mails) == 2


@pytest.mark.parametrize(
    "address", ["o'brien@example.com", "a+b@example.com", "a!#$%&*/?^_`{|}~-b@example.com"]
)
async def test_mail_goes_to_exactly_the_address(mailer: Mailer, inbox: Inbox, address: str) -> None:
    await mailer.send(Mail(address, "Hello", "Text", "HTML"))
    assert inbox.recipients == [address]


async def test_mail_goes_to_an_address_that_is_not_ascii() -> None:
    async with (
        mail_server(takes_utf8=True) as inbox,
        mailer_of(f"smtp://127.0.0.1:{inbox.port}") as mailer,
    ):
        await mailer.send(Mail("jürgen@bücher.example", "Hello", "Text", "HTML"))
    assert inbox.recipients == ["jürgen@xn--bcher-kva.example"]


async def test_address_that_the_server_cannot_take_counts_as_refused(
    mailer: Mailer, inbox: Inbox
) -> None:
    before = counted("refused")
    await mailer.send(Mail("jürgen@example.com", "Hello", "Text", "HTML"))
    assert counted("refused") == before + 1
    await mailer.send(MAIL)
    assert inbox.recipients == ["ann@example.com"]


async def test_mail_to_an_address_that_is_not_ascii_is_written_to_the_folder(
    tmp_path: Path,
) -> None:
    mailer = open_mailer(MailSettings(folder=tmp_path).with_switches(is_development=True))
    await mailer.send(Mail("jürgen@example.com", "Hello", "Text", "HTML"))
    mail = read_mail(tmp_path, *list_mails(tmp_path))
    assert mail is not None
    assert mail["To"] == "jürgen@example.com"


async def test_domain_of_an_address_is_sent_in_ascii(mailer: Mailer, inbox: Inbox) -> None:
    await mailer.send(Mail("ann@bücher.example", "Hello", "Text", "HTML"))
    assert inbox.mails[0]["To"] == "ann@xn--bcher-kva.example"


async def test_line_break_in_a_header_is_refused(mailer: Mailer, inbox: Inbox) -> None:
    with pytest.raises(ValueError, match="linefeed"):
        await mailer.send(Mail("a@example.com", "Hello\r\nBcc: b@example.com", "", ""))
    assert not inbox.mails


async def test_without_a_server_the_error_names_the_setting() -> None:
    mailer = open_mailer(MailSettings().with_switches(is_development=False))
    with pytest.raises(Unavailable, match="MAIL_URL is not set"):
        await mailer.send(MAIL)


def test_values_are_escaped_in_html_alone(tmp_path: Path) -> None:
    (tmp_path / "note.txt").write_text("{{ link }}", encoding="utf-8")
    source = '{% extends "layout.html" %}{% block content %}{{ link }}{% endblock %}'
    (tmp_path / "note.html").write_text(source, encoding="utf-8")
    mail = MailTemplates(tmp_path).render("note", to="a@b.example", subject="S", link="<a>&")
    assert mail.text == "<a>&"
    assert "&lt;a&gt;&amp;" in mail.html
    assert "<a>" not in mail.html
