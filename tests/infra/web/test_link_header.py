"""A link to another page has the parameters that the client sent, and no defaults."""

import httpx2

from tests.sample.factory import NoteFactory


async def test_link_repeats_only_the_parameters_of_the_client(
    client: httpx2.AsyncClient, make: NoteFactory
) -> None:
    await make.notes(21)
    page = await client.get("/test/notes")
    assert page.headers["link"] == f'</test/notes?cursor={page.json()["next"]}>; rel="next"'
