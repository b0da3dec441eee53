"""The demo comments: three times as many as posts, most of them on a few popular posts.

The page shows new ones as they arrive.
"""

from collections import Counter
from collections.abc import Iterable, Iterator

from dev.demo_blog import Blog, Demo, Draws, Row, Table, time_of
from dev.demo_text import read_templates

COLUMNS = "id post_id author_id body created_at"
TEMPLATES = read_templates(__file__)


def tables(blog: Blog) -> list[Table]:
    draws = Draws("comments")
    popular = draws.rng.sample(range(blog.size), blog.size)
    commented = (popular[draws.rank(blog.size, 10)] for _ in range(3 * blog.size))
    comments = sorted((draws.after(blog.written[post]), post) for post in commented)
    count_of = Counter(post for _, post in comments)
    counts = [count_of[post] for post in range(blog.size)]
    rows = _rows(blog, draws, comments)
    return [Table("comments", COLUMNS, len(comments), rows, {"posts": {"comment_count": counts}})]


def _rows(blog: Blog, draws: Draws, comments: Iterable[tuple[int, int]]) -> Iterator[Row]:
    bodies = [
        topic.passages(TEMPLATES["replies"], median=1.9, spread=0.5) for topic in draws.topics()
    ]
    for comment, (moment, post) in enumerate(comments, 1):
        body = next(bodies[blog.topic_of[post]])
        yield comment, post + 1, blog.author(draws, moment), body, time_of(moment)


DEMO = Demo(tables, pages={"Live comments": "/live"})
