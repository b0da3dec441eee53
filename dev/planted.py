"""What the features of this repository have outside their own folders, for `make remove`.

Most of it needs no entry here: what imports a feature, its settings, its demo data, its rows in the
tables of the documents, and the files of the fault programme and the benchmarks that send requests
to it are found.
"""

from collections.abc import Mapping
from dataclasses import dataclass, field


@dataclass(frozen=True)
class Planted:
    """Code, files and sections outside the folders of a feature that are removed with it.

    - `names` are forgotten in the features that it imports, and in the fault programme: see
      `source_edits.forget`.
    - `files` are deleted.
    - `sections` of documents are deleted, by their headings.
    """

    names: frozenset[str] = frozenset()
    files: tuple[str, ...] = ()
    sections: Mapping[str, str] = field(default_factory=dict)


PLANTED: dict[str, Planted] = {}
PLANTED["comments"] = Planted(
    names=frozenset(
        {
            *("comment_count", "comments", "COMMENTS", "MOST_COMMENTS"),
            *("_comment", "_uncomment", "_comments", "_comment_ids", "_with_comments"),
            *("neighbour", "/comments", "comments are deleted"),
            *("/v1/posts/1/comments", "POST /v1/posts/1/comments"),
        }
    ),
    files=(
        "benchmarks/event_stream_server.py",
        "benchmarks/sections/sse.py",
        "tests/faults/subscribers.py",
        "tests/faults/test_event_stream_instances.py",
        "tests/faults/test_event_streams.py",
        "tests/faults/test_first_page.py",
    ),
)
PLANTED["account_mails"] = Planted(
    names=frozenset(
        {
            *("_send_verification", "_tell_old_address"),
            *("A mail asks its owner", "Mails go to the new"),
        }
    ),
    files=("tests/faults/test_password_reset.py",),
    sections={"docs/accounts.md": "The pages of your frontend"},
)
PLANTED["mailbox"] = Planted(files=("tests/features/account_mails/test_browser.py",))
PLANTED["posts"] = Planted(
    files=(
        "benchmarks/blog/__init__.py",
        "benchmarks/blog/cursors.py",
        "benchmarks/blog/schemas.py",
        "benchmarks/blog/sql.py",
        "benchmarks/claims.py",
        "benchmarks/floors/__init__.py",
        "benchmarks/mistakes/__init__.py",
        "benchmarks/raw.py",
        "benchmarks/rivals/__init__.py",
        "benchmarks/sections/depth.py",
        "tests/dev/test_compared.py",
        "tests/dev/test_single_mistakes.py",
    )
)
PLANTED["dashboard"] = Planted(files=("benchmarks/sections/dashboard.py",))
PLANTED["archives"] = Planted(sections={"docs/files.md": "Archives"})
PLANTED["avatars"] = Planted(
    files=(
        "benchmarks/sections/uploads.py",
        "benchmarks/uploads_server.py",
        "tests/dev/test_uploads_section.py",
        "tests/faults/test_uploads.py",
    ),
    sections={"docs/files.md": "Avatars"},
)
PLANTED["idempotency"] = Planted(
    files=("tests/contract/test_idempotency.py", "tests/faults/test_idempotency.py")
)
PLANTED["board"] = Planted(sections={"docs/observability.md": "The live board"})

# Features that stay, and why.
KEPT = {
    "users": "the tests of all features make users",
    "auth": "the tests of all features log in",
}
