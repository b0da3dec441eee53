"""A client that reads and writes posts, and knows which writes were acknowledged."""

from collections import Counter
from dataclasses import dataclass, field

import httpx2

from tests.faults.load import NUMBER, Answer, register, timed
from tests.faults.postgres import Backend


@dataclass
class Author:
    """A client that reads and writes posts, and records the writes that were acknowledged."""

    client: httpx2.AsyncClient
    email: str
    headers: dict[str, str]
    post: str
    acknowledged: list[str] = field(default_factory=list)

    async def send(self, number: int) -> Answer:
        """Send the next of 10 requests: 7 read a post, 1 reads the list, 2 write a post."""
        place = number % 10
        if place == 0:
            return await timed(self.client, "GET", "/v1/posts")
        return await (self.write() if place in (3, 7) else timed(self.client, "GET", self.post))

    async def write(self) -> Answer:
        """Publish a post, and record its title if the write was acknowledged."""
        title = f"ledger {next(NUMBER)}"
        content = {"json": {"title": title, "body": "B"}, "headers": self.headers}
        answer = await timed(self.client, "POST", "/v1/posts", **content)
        if answer.status == 201:
            self.acknowledged.append(title)
        return answer

    async def broken_promises(self, backend: Backend) -> list[str]:
        """Compare with the table: it must contain each acknowledged post, and no post twice."""
        stored = Counter(row["title"] for row in await backend.rows("SELECT title FROM posts"))
        lost = [title for title in self.acknowledged if title not in stored]
        twice = [title for title, times in stored.items() if times > 1 and "ledger" in title]
        return [f"{len(lost)} acknowledged writes lost"] * bool(lost) + [
            f"{len(twice)} writes stored twice"
        ] * bool(twice)


async def sign_up(client: httpx2.AsyncClient) -> Author:
    """Register an author who has written one post."""
    email, headers = await register(client)
    post = await client.post("/v1/posts", json={"title": "T", "body": "B"}, headers=headers)
    return Author(client, email, headers, post.headers["location"])
