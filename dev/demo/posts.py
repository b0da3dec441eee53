"""The demo posts, and commands that read and write posts."""

from collections.abc import Iterator

from dev.demo_blog import Blog, Demo, Draws, Row, Table, time_of
from dev.demo_text import read_templates

COLUMNS = "id author_id title body version created_at updated_at"
TEMPLATES = read_templates(__file__)


def tables(blog: Blog) -> list[Table]:
    return [Table("posts", COLUMNS, blog.size, _rows(blog))]


def _rows(blog: Blog) -> Iterator[Row]:
    draws = Draws("posts")
    topics = draws.topics()
    beginnings = [topic.lines(TEMPLATES["titles"], TEMPLATES["openings"]) for topic in topics]
    bodies = [
        topic.passages(TEMPLATES["sentences"], median=6.4, spread=0.9, paragraph_ends=0.2)
        for topic in topics
    ]
    for post, (written, topic) in enumerate(zip(blog.written, blog.topic_of, strict=True), 1):
        title, opening = next(beginnings[topic])
        body = f"{opening} {next(bodies[topic])}"
        version, updated = 1, written
        if draws.chance(0.04):
            version, updated = draws.rng.randint(2, 4), draws.after(written)
        author, times = blog.author(draws, written), (time_of(written), time_of(updated))
        yield post, author, title, body, version, *times


DEMO = Demo(
    tables,
    commands={"Read the newest posts": "curl -s '{url}/v1/posts?limit=2'"},
    commands_with_token={
        "Write a post with it": (
            """curl -s '{url}/v1/posts' -H "Authorization: Bearer $TOKEN" """
            """-H 'Content-Type: application/json' """
            """-d '{{"title": "Hello", "body": "My first post"}}'"""
        )
    },
)
