"""A client that is generated from the OpenAPI document publishes posts and lists them."""

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from app.settings import Settings
from tests.contract.generated_client import generate_client
from tests.contract.serving import Served, serve
from tests.features.users.factory import PASSWORD


@pytest.fixture
def served(settings: Settings, clean: None) -> Iterator[Served]:
    with serve(settings) as served:
        yield served


@pytest.fixture
def generated(served: Served, tmp_path: Path) -> Iterator[Any]:
    """A function that imports a module of the generated client."""
    with generate_client(served, tmp_path) as imported:
        yield imported


@pytest.mark.slow
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
