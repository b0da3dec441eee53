"""The writers of a history. Each has a name and posts that no other writer changes."""

import asyncio
import random
import time
from collections.abc import Sequence
from contextlib import suppress
from dataclasses import replace
from itertools import count
from typing import Any

import asyncpg

from tests.faults.ledger import Content, Ledger, Register, State, Step
from tests.faults.load import register
from tests.faults.postgres import Backend
from tests.faults.service import Service
from tests.faults.wire import Reply, Wire

MOST_COMMENTS = 8
MOST_POSTS = 3
ATTEMPTS = 5
SETTLING_SECONDS = 0.1  # until PostgreSQL has ended the transaction of a killed worker

POST = "SELECT id, title, created_at FROM posts WHERE title LIKE $1"
COMMENTS = "SELECT body FROM comments WHERE post_id = $1 ORDER BY created_at, id"
NAME = "SELECT name FROM users WHERE id = $1"


class Writer:
    """Changes its posts and its name, step by step."""

    def __init__(self, service: Service, backend: Backend, ledger: Ledger) -> None:
        self.refused = 0
        self.unknown = 0
        self.acknowledged = 0
        self.neighbour = self
        self._client, self._backend, self._ledger = service.client, backend, ledger
        self._wire = Wire(service.address)
        self._numbers = count(1)
        self._mine: list[Register[State]] = []
        self._ids: dict[str, int] = {}
        self._comment_ids: dict[str, int] = {}

    async def join(self, old_posts: int) -> None:
        """Sign up, and write the old posts of the history."""
        _, self.headers = await register(self._client)
        shown = (await self._client.get("/v1/users/me", headers=self.headers)).json()
        self.id: int = shown["id"]
        self._name = self._ledger.names[self.id] = Register(f"name of {self.id}", shown["name"])
        self._old = old_posts
        for _ in range(ATTEMPTS * old_posts):
            if len(self._mine) < old_posts:
                await self._publish()
        assert len(self._mine) == old_posts

    async def work(self, longest_pause: float) -> None:
        """Change something, again and again."""
        deeds = [
            *[self._edit] * 5,
            *[self._comment] * 2,
            self._uncomment,
            *[self._rename] * 2,
            self._publish,
            self._delete,
        ]
        while True:
            await asyncio.sleep(random.uniform(0, longest_pause))
            await random.choice(deeds)()

    async def _edit(self) -> None:
        register = random.choice(self._mine)
        title = f"{register.name}~{next(self._numbers)}"
        step = register.begin(replace(_there(register), title=title), time.monotonic())
        path = f"/v1/posts/{self._ids[register.name]}"
        await self._settle(register, step, await self._write("PATCH", path, {"title": title}))

    async def _comment(self) -> None:
        """Add a comment by the neighbour."""
        register = random.choice(self._mine)
        content = _there(register)
        if len(content.comments) >= MOST_COMMENTS:
            return
        body = f"comment {next(self._numbers)} on {register.name}"
        more = replace(content, comments=(*content.comments, body))
        step = register.begin(more, time.monotonic())
        path = f"/v1/posts/{self._ids[register.name]}/comments"
        reply = await self._write("POST", path, {"body": body}, self.neighbour.headers)
        if reply.status == 201:
            self._comment_ids[body] = reply.json()["id"]
        await self._settle(register, step, reply)

    async def _uncomment(self) -> None:
        register = random.choice(self._mine)
        content = _there(register)
        known = [body for body in content.comments if body in self._comment_ids]
        if not known:
            return
        gone = random.choice(known)
        rest = tuple(body for body in content.comments if body != gone)
        step = register.begin(replace(content, comments=rest), time.monotonic())
        path = f"/v1/comments/{self._comment_ids[gone]}"
        reply = await self._write("DELETE", path, headers=self.neighbour.headers)
        await self._settle(register, step, reply)

    async def _rename(self) -> None:
        name = f"name {next(self._numbers)} of {self.id}"
        step = self._name.begin(name, time.monotonic())
        reply = await self._write("PATCH", "/v1/users/me", {"name": name})
        if not self._is_settled(step, reply):
            [[stored]] = await self._rows(NAME, self.id)
            _resolve(step, stored == name)

    async def _publish(self) -> None:
        if len(self._mine) >= MOST_POSTS + self._old:
            return
        register = Register[State](f"w{self.id}.{next(self._numbers)}", None)
        self._ledger.posts[register.name] = register
        title = f"{register.name}~0"
        step = register.begin(Content(title), time.monotonic())
        reply = await self._write("POST", "/v1/posts", {"title": title, "body": "B"})
        await self._settle(register, step, reply, reply.json() if reply.status == 201 else None)

    async def _delete(self) -> None:
        if len(self._mine) <= self._old:
            return
        register = random.choice(self._mine[self._old :])
        place = self._ledger.unplace(register.name)
        step = register.begin(None, time.monotonic())
        reply = await self._write("DELETE", f"/v1/posts/{self._ids[register.name]}")
        await self._settle(register, step, reply)
        if step.is_void:
            self._ledger.places.append(place)
            self._ledger.places.sort()
        else:
            self._mine.remove(register)

    async def _write(
        self, method: str, path: str, content: Any = None, headers: dict[str, str] | None = None
    ) -> Reply:
        return await self._wire.write(method, path, headers or self.headers, content)

    async def _settle(
        self,
        register: Register[State],
        step: Step[State],
        reply: Reply,
        created: dict[str, Any] | None = None,
    ) -> None:
        """Record the outcome of a write. Without a response, look it up in the database."""
        if not self._is_settled(step, reply):
            row, stored = await self._stored(register)
            _resolve(step, stored == step.value)
            if row and register.name not in self._ids:
                created = {**row, "created_at": row["created_at"].isoformat()}
        if created is not None:
            self._ids[register.name] = created["id"]
            self._ledger.place(created, self.id)
            self._mine.append(register)

    async def _stored(self, register: Register[State]) -> tuple[asyncpg.Record | None, State]:
        """Return the row of a post, and what the post should show."""
        rows = await self._rows(POST, f"{register.name}~%")
        if not rows:
            return None, None
        content = Content(rows[0]["title"])
        content = await self._with_comments(content, rows[0]["id"])
        return rows[0], content

    async def _with_comments(self, content: Content, post_id: int) -> Content:
        bodies = await self._rows(COMMENTS, post_id)
        return replace(content, comments=tuple(row["body"] for row in bodies))

    def _is_settled(self, step: Step[Any], reply: Reply) -> bool:
        if reply.status in (200, 201, 204):
            step.promised_at = reply.came_at
            self.acknowledged += 1
            return True
        if 400 <= reply.status < 500:
            step.is_void = True
            self.refused += 1
            return True
        self.unknown += 1
        return False

    async def _rows(self, query: str, *values: object) -> Sequence[asyncpg.Record]:
        while True:
            await asyncio.sleep(SETTLING_SECONDS)
            with suppress(OSError, asyncpg.PostgresError):
                connection = await asyncpg.connect(self._backend.database_url, timeout=5)
                try:
                    return await connection.fetch(query, *values)
                finally:
                    await connection.close()


def _there(register: Register[State]) -> Content:
    content = register.value
    assert content is not None
    return content


def _resolve(step: Step[Any], is_stored: bool) -> None:
    if is_stored:
        step.promised_at, step.is_late = time.monotonic(), True
    else:
        step.is_void = True
