"""`make connections`."""

import pytest
from sqlalchemy import make_url

from app.settings import Settings
from dev.inspection import show_connections
from dev.terminal import CommandError


@pytest.mark.parametrize(("port", "name"), [(1, None), (None, "nobody-of-that-name")])
async def test_a_database_that_refuses_the_connection_is_reported_without_the_password(
    settings: Settings, port: int | None, name: str | None
) -> None:
    url = make_url(settings.database.url.get_secret_value())
    wrong = url.set(username=name or url.username, password="hunter2", port=port or url.port)
    with pytest.raises(
        CommandError, match=r"Cannot connect to the database .* Correct DATABASE_URL"
    ) as refused:
        await show_connections(wrong.render_as_string(hide_password=False))
    assert "hunter2" not in str(refused.value)
