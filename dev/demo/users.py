"""The demo users. The first one can log in as the demo user."""

from collections.abc import Iterator

from argon2 import PasswordHasher

from dev.demo_blog import Blog, Demo, Draws, Row, Table, time_of
from dev.demo_text import read_templates

DEMO_EMAIL = "demo@example.com"
DEMO_PASSWORD = "demo-password"
SALT = b"demo data's salt"  # a fixed salt, so that equal loads store equal rows

COLUMNS = "id email name bio avatar_url password_hash verified created_at updated_at"
TEMPLATES = read_templates(__file__)


def tables(blog: Blog) -> list[Table]:
    return [Table("users", COLUMNS, len(blog.joined), _rows(blog))]


def _rows(blog: Blog) -> Iterator[Row]:
    draws = Draws("users")
    bios = [topic.lines(TEMPLATES["bios"]) for topic in draws.topics()]
    password_hash = PasswordHasher().hash(DEMO_PASSWORD, salt=SALT)
    for user, joined in enumerate(blog.joined, 1):
        name, email = _full_name(draws), f"member{user}@example.com"
        if user == 1:
            name, email = "Demo User", DEMO_EMAIL
        [bio] = next(draws.rng.choice(bios)) if draws.chance(0.6) else [""]
        avatar = f"https://example.com/avatars/{user}.png" if draws.chance(0.5) else None
        updated = draws.after(joined) if draws.chance(0.3) else joined
        times = time_of(joined), time_of(updated)
        yield user, email, name, bio, avatar, password_hash, True, *times


def _full_name(draws: Draws) -> str:
    language = draws.rng.choice(TEMPLATES["names"])
    return f"{draws.rng.choice(language['first'])} {draws.rng.choice(language['last'])}"


DEMO = Demo(
    tables,
    commands_with_token={
        "Read your account with it": (
            "curl -s '{url}/v1/users/me' -H \"Authorization: Bearer $TOKEN\""
        )
    },
)
