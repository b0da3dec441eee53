"""What the tests of the contract know of `posts`."""

from app.features.posts.queries import ALL_POSTS, POSTS_BY_AUTHOR
from app.features.users.models import User
from app.infra.resources import ProcessResources
from tests.contract.declaration import Contract, Ids, ListPlan, Route, World
from tests.features.posts.factory import PostFactory

THIS_POST = ("post:{post_id}",)


async def make_rows(resources: ProcessResources, ids: Ids) -> Ids:
    post = await PostFactory(resources).post(User(id=ids["user_id"]))
    return {"post_id": post.id}


async def populate(world: World) -> None:
    make, owner, other = PostFactory(world.resources), world.owner, world.other
    posts = [*await make.posts(3, owner), *await make.posts(3, other)]
    # These have just been created, so that a transaction may still add rows to their pages.
    posts += [await make.post(author) for author in (owner, other, owner)]
    world.ids["post_id"] = posts[2].id
    last = posts[-1].id
    world.urls += [f"/v1/posts/{post_id}" for post_id in (posts[0].id, posts[2].id, last, last + 1)]
    authors = (owner.id, other.id, 999)
    world.lists += ["/v1/posts?", *(f"/v1/posts?author_id={user_id}&" for user_id in authors)]


CONTRACT = Contract(
    {
        "GET /v1/posts": Route(
            *(200, 200, 200, 200),
            shows=("post:{post_id}", "posts:new", "user:{user_id}"),
            query={"author_id": "{user_id}"},
        ),
        "POST /v1/posts": Route(
            201, 201, 401, 401, drops=("post:{id}", "posts:new", "posts:new:{user_id}")
        ),
        "GET /v1/posts/export": Route(200, 200, 401, 401),
        "GET /v1/posts/{post_id}": Route(
            200, 200, 200, 200, shows=("post:{post_id}", "user:{user_id}")
        ),
        "PATCH /v1/posts/{post_id}": Route(200, 403, 401, 401, drops=THIS_POST),
        "DELETE /v1/posts/{post_id}": Route(204, 403, 401, 401, drops=THIS_POST),
    },
    make_rows=make_rows,
    populate=populate,
    schemas=frozenset({"Author", "Post"}),
    # A quarter of the posts is by user 5. One in 200 contains the same word.
    fill="""
        INSERT INTO posts (author_id, title, body, created_at)
            SELECT CASE WHEN i % 4 = 0 THEN 5 ELSE 1 + i % 2000 END, i, 'word' || i % 200,
                timestamptz '2026-01-01' + i * interval '1 minute'
            FROM generate_series(1, 20000) i
    """,
    lists=(
        ListPlan(ALL_POSTS, {}, "ix_posts_created_at_id", deep_row=19_000),
        ListPlan(
            POSTS_BY_AUTHOR, {"author_id": 5}, "ix_posts_author_id_created_at_id", deep_row=4_900
        ),
    ),
)
