"""What the tests of the contract know of `avatars`."""

from typing import Any

from app.features.users.models import User
from app.infra.resources import ProcessResources
from tests.contract.callers import Caller
from tests.contract.declaration import Contract, Ids, Route, World
from tests.features.avatars.factory import AvatarFactory
from tests.features.avatars.pictures import quarters, written

ME = ("user:{user_id}",)


async def make_rows(resources: ProcessResources, ids: Ids) -> Ids:
    return {"sha256": await AvatarFactory(resources).avatar(User(id=ids["user_id"]))}


async def populate(world: World) -> None:
    world.ids["sha256"] = await AvatarFactory(world.resources).avatar(world.owner)


def picture(_caller: Caller) -> dict[str, Any]:
    return {"content": written(quarters())}


CONTRACT = Contract(
    {
        "PUT /v1/users/me/avatar": Route(
            200, 200, 401, 401, drops=ME, content=picture, has_example=False
        ),
        "DELETE /v1/users/me/avatar": Route(204, 204, 401, 401, drops=ME),
        "GET /v1/avatars/{sha256}.webp": Route(
            200, 200, 200, 200, cache_control="public, max-age=31536000, immutable"
        ),
    },
    make_rows=make_rows,
    populate=populate,
    schemas=frozenset({"Avatar"}),
)
