"""Settings that cannot work are refused at start-up."""

import pytest
from pydantic import ValidationError

from app.infra.http_client.settings import HttpClientSettings


@pytest.mark.parametrize("ports", ["", "0", "65536", "80,", "80 443", "http", "-1"])
def test_ports_that_do_not_exist_are_refused(ports: str) -> None:
    with pytest.raises(ValidationError, match="separated by commas: 80,443"):
        HttpClientSettings(public_ports=ports)
