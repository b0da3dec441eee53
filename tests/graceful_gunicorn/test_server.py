"""When the server does its periodic work."""

import asyncio

import pytest
import uvicorn

from graceful_gunicorn import server
from graceful_gunicorn.server import Server, pause_before_tick
from graceful_gunicorn.shared_state import SHARED_STATE
from tests.graceful_gunicorn.loopback_server import CONFIG


@pytest.mark.parametrize(
    ("now", "pause"),
    [(70.0, 0.1), (70.037, 0.063), (70.09, 0.01), (70.098, 0.102), (70.1, 0.1), (70.15, 0.05)],
)
def test_ticks_are_at_whole_tenths_of_a_second(now: float, pause: float) -> None:
    assert pause_before_tick(now) == pytest.approx(pause, abs=1e-6)


async def test_server_ticks_until_it_may_exit_with_the_pauses_between(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    happened = list[object]()

    class Ticking(Server):
        async def on_tick(self, counter: int) -> bool:
            happened.append(counter)
            return counter == 2

    async def sleep(seconds: float) -> None:
        happened.append(seconds)

    worker = SHARED_STATE.allocate_worker()
    monkeypatch.setattr(server, "pause_before_tick", lambda _now: 0.07)
    monkeypatch.setattr(asyncio, "sleep", sleep)
    await Ticking(uvicorn.Config("app"), CONFIG, worker, []).main_loop()
    worker.release()
    assert happened == [0, 0.07, 1, 0.07, 2]
