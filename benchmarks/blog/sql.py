"""The statements and the JSON of those that use asyncpg without an ORM."""

from typing import Any

import asyncpg

OWN = ("title", "body", "comment_count", "version", "created_at", "updated_at")
COLUMNS = "posts.id, users.id AS author_id, users.name, users.avatar_url, " + ", ".join(
    f"posts.{column}" for column in OWN
)
POSTS = f"SELECT {COLUMNS} FROM posts JOIN users ON users.id = posts.author_id "  # noqa: S608
NEWEST_FIRST = "ORDER BY posts.created_at DESC, posts.id DESC LIMIT 20"
FIRST_PAGE = POSTS + NEWEST_FIRST
NEXT_PAGE = f"{POSTS} WHERE (posts.created_at, posts.id) < ($1, $2) {NEWEST_FIRST}"
BY_ID = POSTS + "WHERE posts.id = $1"
INSERT = "INSERT INTO posts (author_id, title, body) VALUES ($1, $2, $3) RETURNING *"
USER = """
    SELECT id, name, bio, avatar_url, created_at, email, role, verified, updated_at,
        deleted_at, disabled, credential_version
    FROM users WHERE id = $1
"""
NOT_SHOWN = ("deleted_at", "disabled", "credential_version")


def post_as_dictionary(post: asyncpg.Record, author: asyncpg.Record) -> dict[str, Any]:
    """Return the JSON of a post. `author` has the columns of the author, perhaps beside others."""
    author_id = author.get("author_id") or author["id"]
    return {
        "id": post["id"],
        "author": {"id": author_id, "name": author["name"], "avatar_url": author["avatar_url"]},
        **{column: post[column] for column in OWN},
    }


def user_as_dictionary(user: asyncpg.Record) -> dict[str, Any]:
    return {name: value for name, value in user.items() if name not in NOT_SHOWN}
