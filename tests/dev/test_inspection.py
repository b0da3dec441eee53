"""The commands that look into a running service."""

import pytest
from sqlalchemy import make_url

from app.settings import Settings
from dev.inspection import show_connections
from dev.terminal import CommandError


@pytest.mark.parametrize(("port", "name"), [(1, None), (None, "nobody-of-that-name")])
async def test_a_database_that_lets_nobody_in_is_said_in_a_sentence(
    settings: Settings, port: int | None, name: str | None
) -> None:
    url = make_url(settings.database.url.get_secret_value())
    wrong = url.set(username=name or url.username, password="hunter2", port=port or url.port)
    with pytest.raises(CommandError, match="DATABASE_URL leads to no database") as refused:
        await show_connections(wrong.render_as_string(hide_password=False))
    assert "hunter2" not in str(refused.value)
