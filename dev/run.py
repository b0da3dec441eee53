"""What `make run` and `make dev` do: servers, schema, demo data, service; and down in reverse."""

import math
import signal

from app.settings import load_settings, misspelt_variables
from dev.address import Address, choose_address
from dev.backing import Backing, configured, open_backing
from dev.banner import banner
from dev.database import seed_if_empty, upgrade
from dev.service import GUNICORN, UVICORN, ended_by_itself, open_service, wait_until_ready
from dev.terminal import say

_READY_SECONDS = 60.0


def run(*, reload: bool) -> None:
    """Serve until Ctrl-C or SIGTERM, which are the ordinary end and no error."""
    signal.signal(signal.SIGTERM, signal.default_int_handler)
    try:
        settings = load_settings()  # what is wrong with them is said before anything starts
        if reload:  # Gunicorn says it otherwise
            for sentence in misspelt_variables():
                say(f"In the environment: {sentence}")
        with open_backing(exclusive=True) as backing:
            address = choose_address(settings.server)
            say("Bringing the schema up to date")
            upgrade(backing)
            seed_if_empty(backing)
            _serve(backing, address, reload=reload)
    except KeyboardInterrupt:
        say("Stopped." if configured("DATABASE_URL") else "Stopped; the data are kept in .data.")


def _serve(backing: Backing, address: Address, *, reload: bool) -> None:
    say(f"Starting the service on {address.url}")
    # With reload the next saved file may be the cure, however long it takes.
    patience_seconds = math.inf if reload else _READY_SECONDS
    with open_service(UVICORN if reload else GUNICORN, backing, address) as process:
        wait_until_ready(process, address, patience_seconds)
        say(banner(address.url, embedded_database=backing.embedded_database))
        process.wait()
    raise ended_by_itself(process)
