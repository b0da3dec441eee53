"""What the cache knows of posts."""

from collections.abc import Iterator

from app.features.posts.models import Post
from app.features.users import tags as users
from app.infra.database.pagination import Page

NEW_POSTS = "posts:new"


def post(post_id: int) -> str:
    """Name a post, wherever it is shown, with its count of comments."""
    return f"post:{post_id}"


def new_posts_by(author_id: int) -> str:
    """Name what an author has not written yet."""
    return f"{NEW_POSTS}:{author_id}"


def of_page(page: Page[Post], author_id: int | None) -> Iterator[str]:
    """Name all that a page depends on: what it shows, what comes after, what may come onto it."""
    for row in page.rows:
        yield post(row.id)
    for row in page.items:
        yield users.user(row.author_id)
    if not page.is_settled:
        yield NEW_POSTS if author_id is None else new_posts_by(author_id)
