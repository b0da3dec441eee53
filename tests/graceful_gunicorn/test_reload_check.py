"""Whatever goes wrong in the check of a reload is a reason not to reload, and ends nothing."""

import errno
import os
import sys
import tempfile

import pytest

from graceful_gunicorn.reload_check import reason_not_to_reload

PRINT = (sys.executable, "-c", "import sys; print('bind =', sys.argv[1:])")


def test_a_check_that_cannot_run_is_a_reason_not_to_reload(monkeypatch: pytest.MonkeyPatch) -> None:
    assert "No such file" in (reason_not_to_reload(("/nowhere/gunicorn",), []) or "")

    def fail(*_: object, **_options: object) -> str:
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    monkeypatch.setattr(tempfile, "mkdtemp", fail)
    assert "No space left" in (reason_not_to_reload(PRINT, []) or "")


@pytest.mark.parametrize(
    ("address", "is_refused"),
    [("127.0.0.1:http", True), ("127.0.0.1:70000", True), ("unix:/nowhere/new.sock", False)],
)
def test_every_kind_of_address_can_be_checked(address: str, *, is_refused: bool) -> None:
    reason = reason_not_to_reload((*PRINT, address), [])
    assert (address in (reason or "")) is is_refused
