"""A client that is generated from the OpenAPI document works."""

import importlib
import json
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from tests.contract.serving import Served
from tests.factories import PASSWORD

PACKAGE = "generated_client"
# Without its hooks, which format and lint: they look for tools on the PATH.
CONFIGURATION = {"post_hooks": [], "package_name_override": PACKAGE}
GENERATE = "from openapi_python_client.cli import app; app()"


@pytest.fixture
def generated(served: Served, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Any]:
    """A function that imports a module of the generated client."""
    (tmp_path / "openapi.json").write_text(json.dumps(served.app.openapi()), encoding="utf-8")
    (tmp_path / "configuration.json").write_text(json.dumps(CONFIGURATION), encoding="utf-8")
    command = [sys.executable, "-c", GENERATE, "generate", "--meta", "none", "--fail-on-warning"]
    command += ["--path", "openapi.json", "--config", "configuration.json"]
    command += ["--output-path", PACKAGE]
    done = subprocess.run(
        command, cwd=tmp_path, capture_output=True, text=True, check=False, encoding="utf-8"
    )
    assert done.returncode == 0, done.stdout + done.stderr
    monkeypatch.syspath_prepend(tmp_path)
    yield lambda name: importlib.import_module(f"{PACKAGE}.{name}")
    for name in [name for name in sys.modules if name.partition(".")[0] == PACKAGE]:
        del sys.modules[name]


def test_it_logs_in_and_publishes_a_post_that_is_listed(served: Served, generated: Any) -> None:
    user = served.run(served.make.user())
    clients, models = generated("client"), generated("models")
    log_in = generated("api.auth.log_in").sync
    create_post = generated("api.posts.create_post").sync
    list_posts = generated("api.posts.list_posts").sync
    with clients.Client(served.url) as client:
        token = log_in(
            client=client, body=models.Credentials(username=user.email, password=PASSWORD)
        )
    with clients.AuthenticatedClient(served.url, token.access_token) as client:
        post = create_post(client=client, body=models.PostCreate(title="Hello", body="World"))
        page = list_posts(client=client, author_id=user.id, limit=1)
    assert (post.title, post.author.name) == ("Hello", user.name)
    assert page.items == [post]


def test_it_tells_an_error_from_an_answer(served: Served, generated: Any) -> None:
    with generated("client").Client(served.url) as client:
        missing = generated("api.posts.read_post").sync(1, client=client)
    assert isinstance(missing, generated("models").Problem)
    assert (missing.status, missing.code) == (404, "not_found")
