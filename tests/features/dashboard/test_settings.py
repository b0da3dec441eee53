"""Settings of the dashboard that cannot work are refused at start-up."""

import pytest
from pydantic import ValidationError

from app.features.dashboard.settings import DashboardSettings


@pytest.mark.parametrize("url", ["a.example.com", "http://u:p@a.example.com", "http://a/?b=c"])
def test_address_of_the_other_service(url: str) -> None:
    with pytest.raises(ValidationError):
        DashboardSettings(upstream_url=url)
