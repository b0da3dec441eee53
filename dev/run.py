"""`make run` and `make dev`: the servers, the schema, the demo data, and the service."""

import math
import signal
from types import FrameType

from app.settings import load_settings, misspelt_variables
from dev.address import Address, choose_address
from dev.database import seed_if_empty, upgrade
from dev.demo.users import DEMO_EMAIL, DEMO_PASSWORD
from dev.demo_data import demos
from dev.servers import Servers, configured, open_servers
from dev.service import (
    GUNICORN,
    UVICORN,
    ended_by_itself,
    open_service,
    run_job_worker,
    wait_until_ready,
)
from dev.terminal import bold, say

_READY_SECONDS = 60.0

# The commands can be pasted into bash and zsh. URLs are quoted because zsh expands `?`.
_TOKEN = (
    "TOKEN=$(curl -s '{url}/v1/auth/token' -d 'username={email}' -d 'password={password}'"
    """ | sed 's/.*"access_token": *"\\([^"]*\\)".*/\\1/')"""
)


def run(*, reload: bool) -> None:
    """Serve until Ctrl-C or SIGTERM."""
    signal.signal(signal.SIGTERM, interrupt)
    try:
        settings = load_settings()  # wrong settings are reported before anything starts
        if reload:  # Gunicorn's configuration does it otherwise
            for sentence in misspelt_variables():
                say(f"In the environment: {sentence}")
        with open_servers(exclusive=True) as servers:
            address = choose_address(settings.server)
            say("Updating the database schema")
            upgrade(servers)
            _serve(servers, address, reload=reload)
    except KeyboardInterrupt:
        say("Stopped." if configured("DATABASE_URL") else "Stopped. The data stays in .data.")


def interrupt(_signal: int, frame: FrameType | None) -> None:
    """Do what Ctrl-C does now: while asyncio runs, that is to cancel its main task."""
    on_interrupt = signal.getsignal(signal.SIGINT)
    if callable(on_interrupt):
        on_interrupt(signal.SIGINT, frame)
    else:  # in the background of a script, where Ctrl-C is ignored
        raise KeyboardInterrupt


def _serve(servers: Servers, address: Address, *, reload: bool) -> None:
    say(f"Starting the service on {address.url}")
    with open_service(UVICORN if reload else GUNICORN, servers, address) as process:
        seed_if_empty(servers)
        # With reload, the developer can mend the code while this waits.
        wait_until_ready(process, address, math.inf if reload else _READY_SECONDS)
        say(_welcome(address.url, embedded_database=servers.embedded_database))
        run_job_worker(process, servers, address, reload=reload)
    raise ended_by_itself(process)


def _welcome(url: str, *, embedded_database: bool) -> str:
    login = f"{DEMO_EMAIL} / {DEMO_PASSWORD}"
    if not embedded_database:
        login = "none; `make seed N=1000` adds demo data to an empty database"
    kept = " The data stays in .data until `make clean-data`." if embedded_database else ""
    pages = {"Service": bold(url), "Documentation": f"{url}/docs"}
    for demo in demos():
        pages |= {title: url + path for title, path in demo.pages.items()}
    pages["Demo login"] = login
    width = max(map(len, pages))
    lines = [f"{bold(title)}{' ' * (width - len(title))}  {page}" for title, page in pages.items()]
    for title, command in _commands().items():
        filled = command.format(url=url, email=DEMO_EMAIL, password=DEMO_PASSWORD)
        lines += ["", bold(title), f"  {filled}"]
    return "\n".join(["", *lines, "", f"Press Ctrl-C to stop.{kept}", ""])


def _commands() -> dict[str, str]:
    """Return the commands to try, by their titles."""
    commands: dict[str, str] = {}
    with_token: dict[str, str] = {}
    for demo in demos():
        commands |= demo.commands
        with_token |= demo.commands_with_token
    return {**commands, "Get a token": _TOKEN, **with_token}
