"""What the tests of the contract know of `drafts`."""

from app.features.drafts.models import DraftStatus
from app.features.drafts.queries import ALL_DRAFTS, DRAFTS_BY_STATUS
from app.features.users.models import User
from app.infra.resources import ProcessResources
from tests.contract.declaration import Contract, Ids, ListPlan, Route, World
from tests.features.drafts.factory import DraftFactory


async def make_rows(resources: ProcessResources, ids: Ids) -> Ids:
    draft = await DraftFactory(resources).draft(User(id=ids["user_id"]))
    return {"draft_id": draft.id}


async def populate(world: World) -> None:
    drafts = await DraftFactory(world.resources).drafts(3, world.owner)
    world.ids["draft_id"] = drafts[0].id


CONTRACT = Contract(
    {
        "GET /v1/drafts": Route(200, 200, 401, 401, query={"status": "draft"}),
        "POST /v1/drafts": Route(201, 201, 401, 401, drops=()),
        "GET /v1/drafts/{draft_id}": Route(200, 404, 401, 401),
        "PATCH /v1/drafts/{draft_id}": Route(200, 404, 401, 401, drops=()),
        "DELETE /v1/drafts/{draft_id}": Route(204, 404, 401, 401, drops=()),
        "POST /v1/drafts/{draft_id}/publish": Route(
            201, 404, 401, 401, drops=("post:{id}", "posts:new", "posts:new:{user_id}")
        ),
    },
    make_rows=make_rows,
    populate=populate,
    schemas=frozenset({"Draft"}),
    # A quarter of the drafts belongs to user 5. A third of all drafts is scheduled.
    fill="""
        INSERT INTO drafts (owner_id, title, body, status, created_at)
            SELECT CASE WHEN i % 4 = 0 THEN 5 ELSE 1 + i % 2000 END, i, i,
                CASE WHEN i % 3 = 0 THEN 'scheduled' ELSE 'draft' END,
                timestamptz '2026-01-01' + i * interval '1 minute'
            FROM generate_series(1, 20000) i
    """,
    lists=(
        ListPlan(ALL_DRAFTS, {"owner_id": 5}, "ix_drafts_owner_id_created_at_id", deep_row=4_900),
        ListPlan(
            DRAFTS_BY_STATUS,
            {"owner_id": 5, "status": DraftStatus.SCHEDULED},
            "ix_drafts_owner_id_status_created_at_id",
            deep_row=1_600,
        ),
    ),
)
