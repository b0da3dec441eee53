"""What the tests of the contract share."""

from collections.abc import Iterator

import pytest

from app.infra.dependencies import ProcessResources
from app.settings import Settings
from tests.contract.serving import Served, serve
from tests.factories import Factory


@pytest.fixture
def served(settings: Settings, clean: None) -> Iterator[Served]:
    """The application, served on a port of the loopback."""
    with serve(settings) as served:
        yield served


@pytest.fixture
def make(resources: ProcessResources, clean: None) -> Factory:
    return Factory(resources)


@pytest.fixture
async def ids(make: Factory) -> dict[str, int]:
    """What there is to name in a path: a user, their post, and their comment on it."""
    user = await make.user()
    post = await make.post(user)
    comment = await make.comment(post, user)
    return {"user_id": user.id, "post_id": post.id, "comment_id": comment.id}
