"""OAuth2 client libraries can log in, refresh tokens, and recognise errors."""

from collections.abc import Callable, Iterator
from typing import Any

import pytest
from authlib.integrations.base_client import OAuthError
from authlib.integrations.requests_client import OAuth2Session
from oauthlib.oauth2 import LegacyApplicationClient, OAuth2Error
from requests_oauthlib import OAuth2Session as RequestsSession

from app.settings import Settings
from tests.contract.serving import Served, serve
from tests.features.users.factory import PASSWORD


@pytest.fixture
def served(settings: Settings, clean: None, monkeypatch: pytest.MonkeyPatch) -> Iterator[Served]:
    """The service. oauthlib accepts its URL although it is not HTTPS."""
    monkeypatch.setenv("OAUTHLIB_INSECURE_TRANSPORT", "1")
    with serve(settings) as served:
        yield served


@pytest.fixture
def email(served: Served) -> str:
    """The email address of an account."""
    return served.run(served.make.user()).email


def with_authlib(url: str, email: str, password: str) -> OAuth2Session:
    session = OAuth2Session("a-client", token_endpoint=f"{url}/v1/auth/token")
    session.fetch_token(username=email, password=password)
    return session


def with_requests(url: str, email: str, password: str) -> RequestsSession:
    session = RequestsSession(client=LegacyApplicationClient("a-client"))
    token_url = f"{url}/v1/auth/token"
    session.fetch_token(token_url, username=email, password=password)
    return session


LIBRARIES = [
    pytest.param(with_authlib, OAuthError, id="authlib"),
    pytest.param(with_requests, OAuth2Error, id="requests-oauthlib"),
]


@pytest.mark.slow
@pytest.mark.parametrize(("log_in", "refusal"), LIBRARIES)
def test_client_logs_in_and_refreshes_its_token(
    served: Served, email: str, log_in: Callable[..., Any], refusal: type[Exception]
) -> None:
    with log_in(served.url, email, PASSWORD) as session:
        assert session.get(f"{served.url}/v1/users/me").json()["email"] == email
        used = session.token["refresh_token"]
        session.refresh_token(f"{served.url}/v1/auth/token", refresh_token=used)
        assert session.token["refresh_token"] != used
        assert session.get(f"{served.url}/v1/users/me").json()["email"] == email
        with pytest.raises(refusal) as refused:
            session.refresh_token(f"{served.url}/v1/auth/token", refresh_token=used)
    assert refused.value.error == "invalid_grant"  # type: ignore[attr-defined]


@pytest.mark.slow
@pytest.mark.parametrize(("log_in", "refusal"), LIBRARIES)
@pytest.mark.parametrize(
    ("password", "error"),
    [
        ("wrong password", "invalid_grant"),
        ("x" * 400, "invalid_request"),
        ("x" * 9_000, "invalid_request"),
    ],
)
def test_client_raises_for_a_wrong_password(
    served: Served,
    email: str,
    log_in: Callable[..., Any],
    refusal: type[Exception],
    password: str,
    error: str,
) -> None:
    with pytest.raises(refusal) as refused:
        log_in(served.url, email, password)
    assert refused.value.error == error  # type: ignore[attr-defined]


@pytest.mark.parametrize(("log_in", "refusal"), LIBRARIES)
def test_client_raises_for_an_unsupported_grant_type(
    served: Served, log_in: Callable[..., Any], refusal: type[Exception]
) -> None:
    token_url = f"{served.url}/v1/auth/token"
    with pytest.raises(refusal) as refused:
        if log_in is with_authlib:
            OAuth2Session("a-client", token_endpoint=token_url).fetch_token(
                grant_type="client_credentials"
            )
        else:
            client = LegacyApplicationClient("a-client")
            client.grant_type = "client_credentials"
            RequestsSession(client=client).fetch_token(token_url, username="a", password="b")
    assert refused.value.error == "unsupported_grant_type"  # type: ignore[attr-defined]
