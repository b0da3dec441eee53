"""A client that is generated from the OpenAPI document works."""

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from tests.contract.generated_client import generate_client
from tests.contract.serving import Served
from tests.features.users.factory import PASSWORD


@pytest.fixture
def generated(served: Served, tmp_path: Path) -> Iterator[Any]:
    """A function that imports a module of the generated client."""
    with generate_client(served, tmp_path) as imported:
        yield imported


def test_it_logs_in_and_reads_the_account(served: Served, generated: Any) -> None:
    user = served.run(served.make.user())
    clients, models = generated("client"), generated("models")
    with clients.Client(served.url) as client:
        credentials = models.Credentials(username=user.email, password=PASSWORD)
        token = generated("api.auth.log_in").sync(client=client, body=credentials)
    with clients.AuthenticatedClient(served.url, token.access_token) as client:
        account = generated("api.users.read_me").sync(client=client)
    assert (account.id, account.email) == (user.id, user.email)


def test_it_tells_an_error_from_an_answer(served: Served, generated: Any) -> None:
    with generated("client").Client(served.url) as client:
        missing = generated("api.users.read_user").sync(999, client=client)
    assert isinstance(missing, generated("models").Problem)
    assert (missing.status, missing.code) == (404, "not_found")


def test_it_sends_a_request_again_with_its_key(served: Served, generated: Any) -> None:
    user = served.run(served.make.user())
    token = served.make.headers(user)["Authorization"].removeprefix("Bearer ")
    with generated("client").AuthenticatedClient(served.url, token) as client:
        send = generated("api.auth.send_verification").sync_detailed
        first, again = [send(client=client, idempotency_key="one") for _ in range(2)]
    assert (first.status_code, again.status_code) == (202, 202)
    assert "idempotent-replayed" not in first.headers
    assert again.headers["idempotent-replayed"] == "true"
