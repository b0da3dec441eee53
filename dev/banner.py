"""What a developer reads once the service is up: where it is, and what to try.

The calls can be pasted into bash and zsh: addresses are quoted, because zsh expands `?`, and
nothing but curl and sed is needed.
"""

from dev.demo_data import DEMO_EMAIL, DEMO_PASSWORD
from dev.terminal import bold

_LIST = "curl -s '{url}/v1/posts?limit=2'"
_TOKEN = (
    "TOKEN=$(curl -s '{url}/v1/auth/token' -d 'username={email}' -d 'password={password}'"
    """ | sed 's/.*"access_token": *"\\([^"]*\\)".*/\\1/')"""
)
_CREATE = (
    """curl -s '{url}/v1/posts' -H "Authorization: Bearer $TOKEN" """
    """-H 'Content-Type: application/json' -d '{{"title": "Hello", "body": "My first post"}}'"""
)


def banner(url: str, *, embedded_database: bool) -> str:
    """Compose the text; somebody's own database has no demo login unless they ask for it."""
    data = (
        f"{DEMO_EMAIL} / {DEMO_PASSWORD}" if embedded_database else "`make seed N=1000` makes one"
    )
    kept = "; the data are kept until `make clean-data`" if embedded_database else ""
    return f"""
{bold("Service")}        {bold(url)}
{bold("Documentation")}  {url}/docs
{bold("Live board")}     {url}/
{bold("Demo login")}     {data}

{bold("Read the newest posts")}
  {_call(_LIST, url)}
{bold("Get a token")}
  {_call(_TOKEN, url)}
{bold("Write a post with it")}
  {_call(_CREATE, url)}

Ctrl-C stops it{kept}.
"""


def _call(template: str, url: str) -> str:
    return template.format(url=url, email=DEMO_EMAIL, password=DEMO_PASSWORD)
