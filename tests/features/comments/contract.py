"""What the tests of the contract know of `comments`."""

from app.features.comments.queries import COMMENTS_OF_POST
from app.features.posts.models import Post
from app.features.users.models import User
from app.infra.resources import ProcessResources
from tests.contract.declaration import Contract, Ids, ListPlan, Lookup, Route, World
from tests.features.comments.factory import CommentFactory

THIS_POST = ("post:{post_id}",)


async def make_rows(resources: ProcessResources, ids: Ids) -> Ids:
    post, author = Post(id=ids["post_id"]), User(id=ids["user_id"])
    return {"comment_id": (await CommentFactory(resources).comment(post, author)).id}


async def populate(world: World) -> None:
    make, post = CommentFactory(world.resources), Post(id=world.ids["post_id"])
    authors = (world.owner, world.other, world.owner)
    comments = [await make.comment(post, author) for author in authors]
    world.ids["comment_id"] = comments[0].id
    world.urls += [f"{url}/comments" for url in world.urls if url.startswith("/v1/posts/")]
    world.lists.append(f"/v1/posts/{post.id}/comments?")


CONTRACT = Contract(
    {
        "GET /v1/posts/{post_id}/comments": Route(
            200, 200, 200, 200, shows=("post:{post_id}", "user:{user_id}")
        ),
        "GET /v1/posts/{post_id}/comments/stream": Route(200, 200, 200, 200),
        "GET /live": Route(200, 200, 200, 200),  # the tests call from an address that may see it
        "POST /v1/posts/{post_id}/comments": Route(201, 201, 401, 401, drops=THIS_POST),
        "DELETE /v1/comments/{comment_id}": Route(204, 403, 401, 401, drops=THIS_POST),
    },
    make_rows=make_rows,
    populate=populate,
    schemas=frozenset({"Comment"}),
    # A quarter of the comments is on post 5.
    fill="""
        INSERT INTO comments (post_id, author_id, body, created_at)
            SELECT CASE WHEN i % 4 = 0 THEN 5 ELSE 1 + i % 200 END, 1 + i % 2000, i,
                timestamptz '2026-01-01' + i * interval '1 minute'
            FROM generate_series(1, 20000) i
    """,
    lookups=(
        Lookup(
            "SELECT * FROM comments WHERE post_id = $1 AND id > $2 ORDER BY id LIMIT 100",
            [6, 0],
            "ix_comments_post_id_id",
        ),
        Lookup(
            "SELECT id, (SELECT max(comments.id) FROM comments WHERE post_id = posts.id) "
            "FROM posts WHERE id = ANY($1)",
            [[5, 6]],
            "ix_comments_post_id_id",
        ),
    ),
    lists=(
        ListPlan(
            COMMENTS_OF_POST, {"post_id": 5}, "ix_comments_post_id_created_at_id", deep_row=4_900
        ),
    ),
)
