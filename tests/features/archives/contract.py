"""What the tests of the contract know of `archives`."""

from app.features.users.models import User
from app.infra.resources import ProcessResources
from tests.contract.declaration import Contract, Ids, Route, World
from tests.features.archives.factory import ArchiveFactory


async def make_rows(resources: ProcessResources, ids: Ids) -> Ids:
    archive = await ArchiveFactory(resources).archive(User(id=ids["user_id"]))
    return {"archive_id": archive.id}


async def populate(world: World) -> None:
    world.ids["archive_id"] = (await ArchiveFactory(world.resources).archive(world.owner)).id


CONTRACT = Contract(
    {
        "POST /v1/archives": Route(202, 202, 401, 401, drops=()),
        "GET /v1/archives/{archive_id}": Route(200, 404, 401, 401),
        "GET /v1/archives/{archive_id}/download": Route(200, 404, 401, 401),
    },
    make_rows=make_rows,
    populate=populate,
    schemas=frozenset({"Archive"}),
)
