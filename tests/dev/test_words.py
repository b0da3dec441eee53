"""The name of a resource has a singular, and source text is renamed in all its forms."""

from textwrap import dedent

import pytest

from dev.words import Words, rename_words, singular_of

SINGULARS = {
    "addresses": "address",
    "archives": "archive",
    "aliases": "alias",
    "boxes": "box",
    "branches": "branch",
    "caches": "cache",
    "cases": "case",
    "categories": "category",
    "children": "child",
    "clauses": "clause",
    "curves": "curve",
    "databases": "database",
    "dishes": "dish",
    "days": "day",
    "heroes": "hero",
    "invoices": "invoice",
    "licenses": "license",
    "movies": "movie",
    "news_items": "news_item",
    "people": "person",
    "prizes": "prize",
    "purchase_orders": "purchase_order",
    "quizzes": "quiz",
    "sales_taxes": "sales_tax",
    "statuses": "status",
    "warehouses": "warehouse",
}
UNCLEAR = [
    "address",
    "analyses",
    "analytics",
    "data",
    "invoice",
    "news",
    "series",
    "shelves",
    "status",
]


@pytest.mark.parametrize(("plural", "singular"), SINGULARS.items())
def test_the_singular_of_a_plural_is_derived(plural: str, singular: str) -> None:
    assert singular_of(plural) == singular


@pytest.mark.parametrize("word", UNCLEAR)
def test_no_singular_is_guessed(word: str) -> None:
    assert singular_of(word) is None


SOURCE = '''
"""`/v1/posts`: posts of an author. A post has a title.

A `post_id` is the id of a
post. See tests/features/posts/factory.py and https://www.postgresql.org.
"""

POSTS = select(Post)
LARGEST_POST = 1
router = APIRouter(prefix="/v1/posts", tags=["posts"])

@router.post("", response_model=PostPage)
async def create_post(data: PostCreate) -> Post:
    """Publish a post."""
    post = await service.create_post(data)
    invalidate(tags.post(post.id), f"post:{post.id}", f"posts:new:{post.author_id}")
    raise NotFound("There is no such post.")

async def test_a_new_post_is_listed_beside_a_post(client, make):
    post = await make.post(title=f"Post {1}")
    await PostFactory(resources).post()
    await self.post()
    await client.post(f"/v1/posts/{post.id}", json={"kind": "post"})  # the posts are posted
    assert "POST /v1/posts" and ["POST"] and title == "Post"
    assert "?kind=post&post=1" and "api.posts.create_post"
    assert """SELECT id FROM posts JOIN ix_posts_id""" and "Posts of Ann"
'''
RENAMED = '''
"""`/v1/art-objects`: art objects of an author. An art object has a title.

An `art_object_id` is the id of an
art object. See tests/features/art_objects/factory.py and https://www.postgresql.org.
"""

ART_OBJECTS = select(ArtObject)
LARGEST_ART_OBJECT = 1
router = APIRouter(prefix="/v1/art-objects", tags=["art_objects"])

@router.post("", response_model=ArtObjectPage)
async def create_art_object(data: ArtObjectCreate) -> ArtObject:
    """Publish an art object."""
    art_object = await service.create_art_object(data)
    invalidate(tags.art_object(art_object.id), f"art_object:{art_object.id}", f"art_objects:new:{art_object.author_id}")
    raise NotFound("There is no such art object.")

async def test_a_new_art_object_is_listed_beside_an_art_object(client, make):
    art_object = await make.art_object(title=f"Art object {1}")
    await ArtObjectFactory(resources).art_object()
    await self.art_object()
    await client.post(f"/v1/art-objects/{art_object.id}", json={"kind": "post"})  # the art objects are posted
    assert "POST /v1/art-objects" and ["POST"] and title == "ArtObject"
    assert "?kind=post&art_object=1" and "api.art_objects.create_art_object"
    assert """SELECT id FROM art_objects JOIN ix_art_objects_id""" and "Art objects of Ann"
'''  # noqa: E501


def test_words_are_renamed_in_every_form() -> None:
    new = Words("art_object", "art_objects")
    assert rename_words(SOURCE, Words("post", "posts"), new) == RENAMED


def test_a_value_and_a_member_of_an_enum_stay() -> None:
    source = """
    class DraftStatus(Choice):
        DRAFT = "draft"

    url, sql = "/v1/drafts?status=draft&limit=1", "UPDATE drafts SET status = 'draft'"
    of_drafts = {"status": "draft"}, DraftStatus.DRAFT, ["DRAFT"]
    """
    renamed = """
    class BoxStatus(Choice):
        DRAFT = "draft"

    url, sql = "/v1/boxes?status=draft&limit=1", "UPDATE boxes SET status = 'draft'"
    of_boxes = {"status": "draft"}, BoxStatus.DRAFT, ["DRAFT"]
    """
    words = Words("draft", "drafts"), Words("box", "boxes")
    assert rename_words(dedent(source), *words) == dedent(renamed)


@pytest.mark.parametrize(
    ("singular", "article"),
    {
        "invoice": "an",
        "box": "a",
        "unit": "a",
        "user_group": "a",
        "update": "an",
        "hour": "an",
    }.items(),
)
def test_the_article_fits_the_noun(singular: str, article: str) -> None:
    new = Words(singular, f"{singular}s")
    spoken = singular.replace("_", " ")
    assert rename_words("# A post.", Words("post", "posts"), new) == (
        f"# {article.capitalize()} {spoken}."
    )
