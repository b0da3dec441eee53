"""`make run` and `make dev`: the servers, the schema, the demo data, and the service."""

import math
import signal

from app.settings import load_settings, misspelt_variables
from dev.address import Address, choose_address
from dev.database import seed_if_empty, upgrade
from dev.demo_data import DEMO_EMAIL, DEMO_PASSWORD
from dev.servers import Servers, configured, open_servers
from dev.service import GUNICORN, UVICORN, ended_by_itself, open_service, wait_until_ready
from dev.terminal import bold, say

_READY_SECONDS = 60.0

# The commands can be pasted into bash and zsh. URLs are quoted because zsh expands `?`.
_LIST = "curl -s '{url}/v1/posts?limit=2'"
_TOKEN = (
    "TOKEN=$(curl -s '{url}/v1/auth/token' -d 'username={email}' -d 'password={password}'"
    """ | sed 's/.*"access_token": *"\\([^"]*\\)".*/\\1/')"""
)
_CREATE = (
    """curl -s '{url}/v1/posts' -H "Authorization: Bearer $TOKEN" """
    """-H 'Content-Type: application/json' -d '{{"title": "Hello", "body": "My first post"}}'"""
)


def run(*, reload: bool) -> None:
    """Serve until Ctrl-C or SIGTERM."""
    signal.signal(signal.SIGTERM, signal.default_int_handler)
    try:
        settings = load_settings()  # wrong settings are reported before anything starts
        if reload:  # Gunicorn's configuration does it otherwise
            for sentence in misspelt_variables():
                say(f"In the environment: {sentence}")
        with open_servers(exclusive=True) as servers:
            address = choose_address(settings.server)
            say("Updating the database schema")
            upgrade(servers)
            seed_if_empty(servers)
            _serve(servers, address, reload=reload)
    except KeyboardInterrupt:
        say("Stopped." if configured("DATABASE_URL") else "Stopped. The data stays in .data.")


def _serve(servers: Servers, address: Address, *, reload: bool) -> None:
    say(f"Starting the service on {address.url}")
    with open_service(UVICORN if reload else GUNICORN, servers, address) as process:
        # With reload, the developer can mend the code while this waits.
        wait_until_ready(process, address, math.inf if reload else _READY_SECONDS)
        say(_welcome(address.url, embedded_database=servers.embedded_database))
        process.wait()
    raise ended_by_itself(process)


def _welcome(url: str, *, embedded_database: bool) -> str:
    login = f"{DEMO_EMAIL} / {DEMO_PASSWORD}"
    if not embedded_database:
        login = "none; `make seed N=1000` adds demo data to an empty database"
    kept = " The data stays in .data until `make clean-data`." if embedded_database else ""
    list_, token, create = (
        template.format(url=url, email=DEMO_EMAIL, password=DEMO_PASSWORD)
        for template in (_LIST, _TOKEN, _CREATE)
    )
    return f"""
{bold("Service")}        {bold(url)}
{bold("Documentation")}  {url}/docs
{bold("Live board")}     {url}/
{bold("Demo login")}     {login}

{bold("Read the newest posts")}
  {list_}
{bold("Get a token")}
  {token}
{bold("Write a post with it")}
  {create}

Press Ctrl-C to stop.{kept}
"""
