"""Cursors that the service issued are accepted, and all others are refused."""

from dataclasses import replace
from datetime import UTC, datetime

import httpx2
import pytest
from hypothesis import given
from hypothesis import strategies as st

from app.errors import InvalidRequest
from app.infra.database.pagination import Cursor
from tests.sample.notes import ALL_NOTES

LIST = b"list"
CURSORS = st.builds(
    Cursor,
    list_id=st.just(LIST),
    created_at=st.datetimes(min_value=datetime(1, 1, 2), max_value=datetime(9999, 12, 30)).map(
        lambda moment: moment.replace(tzinfo=UTC)
    ),
    row_id=st.integers(0, 2**63 - 1),
    backward=st.booleans(),
)


@given(CURSORS)
def test_cursor_can_be_decoded(cursor: Cursor) -> None:
    assert Cursor.decode(cursor.encode(), LIST) == cursor


@given(CURSORS, st.data())
def test_altered_cursor_is_refused_or_is_another_cursor(
    cursor: Cursor, data: st.DataObject
) -> None:
    text = cursor.encode()
    place = data.draw(st.integers(0, len(text) - 1))
    forged = text[:place] + data.draw(st.characters()) + text[place + 1 :]
    try:
        assert Cursor.decode(forged, LIST).encode() == forged
    except InvalidRequest as error:
        assert error.code == "invalid_cursor"


@given(st.text())
def test_arbitrary_text_is_refused(text: str) -> None:
    with pytest.raises(InvalidRequest):
        Cursor.decode(text, LIST)


@given(CURSORS)
def test_cursor_of_another_list_is_refused(cursor: Cursor) -> None:
    with pytest.raises(InvalidRequest):
        Cursor.decode(cursor.encode(), b"ours")


@given(CURSORS.map(lambda cursor: replace(cursor, row_id=-1 - cursor.row_id)))
def test_cursor_with_a_negative_id_is_refused(cursor: Cursor) -> None:
    with pytest.raises(InvalidRequest):
        Cursor.decode(cursor.encode(), LIST)


@pytest.mark.parametrize("row_id", [0, 1, 2**63 - 1])
@pytest.mark.parametrize("backward", [False, True])
@pytest.mark.parametrize("url", ["/test/notes", "/test/notes?author_id=1"])
async def test_empty_page_at_the_smallest_and_largest_id_is_answered(
    client: httpx2.AsyncClient, url: str, row_id: int, backward: bool
) -> None:
    filters = {"author_id": 1} if "author_id" in url else {}
    list_id = ALL_NOTES._id(filters)
    cursor = Cursor(list_id, datetime(2026, 1, 1, tzinfo=UTC), row_id, backward).encode()
    response = await client.get(url, params={**filters, "cursor": cursor})
    assert response.status_code == 200
    page = response.json()
    again = page["next"] or page["prev"]
    answer = await client.get(url, params={**filters, "cursor": again})
    assert answer.status_code == 200
