"""What the tests of the contract know of the dashboard."""

from tests.contract.declaration import Contract, Lookup, Route

CONTRACT = Contract(
    {"GET /v1/dashboard": Route(200, 200, 401, 401)},
    schemas=frozenset({"Dashboard", "Stats", "UpstreamProfile"}),
    lookups=(
        Lookup(
            "SELECT count(*), max(created_at) FROM posts WHERE author_id = $1",
            (7,),
            "ix_posts_author_id_created_at_id",
        ),
    ),
)
