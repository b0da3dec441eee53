"""The process as it is assembled."""

import pytest
from anyio.to_thread import current_default_thread_limiter

from app.settings import Settings
from tests.application import running


@pytest.mark.parametrize("threads", [1, 3])
async def test_the_number_of_threads_is_a_setting(settings: Settings, threads: int) -> None:
    server = settings.server.model_copy(update={"threads": threads})
    async with running(settings.model_copy(update={"server": server})):
        assert current_default_thread_limiter().total_tokens == threads
