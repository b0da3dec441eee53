"""Cache tags of posts."""

from collections.abc import Iterator

from app.features.posts.models import PostRow
from app.features.users import tags as users
from app.infra.database.pagination import Page

NEW_POSTS = "posts:new"


def post(post_id: int) -> str:
    """Tag answers that show a post. They include its `comment_count`."""
    return f"post:{post_id}"


def new_posts_by(author_id: int) -> str:
    """Tag lists that a new post of this author will change."""
    return f"{NEW_POSTS}:{author_id}"


def of_page(page: Page[PostRow], author_id: int | None) -> Iterator[str]:
    """Return the tags of the posts and authors on a page, and of posts that may be added to it."""
    for row in page.rows:
        yield post(row.id)
    for row in page.items:
        yield users.user(row.author.id)
    if not page.is_settled:
        yield NEW_POSTS if author_id is None else new_posts_by(author_id)
