"""Each input type accepts what its JSON Schema says, and stores and returns it unchanged."""

import json
from collections.abc import AsyncIterator
from datetime import UTC, date, datetime
from typing import Annotated, Any

import httpx2
import pytest
from fastapi import FastAPI
from hypothesis import HealthCheck, given
from hypothesis import settings as examples
from hypothesis import strategies as st
from pydantic import Field, ValidationError
from sqlalchemy import delete, text
from sqlalchemy.exc import DBAPIError

from app.infra.resources import ProcessResources
from app.infra.validation.fields import Id, Input, Whole
from app.settings import Settings
from tests.application import client_of, running
from tests.infra.validation.values import EXAMPLE, Separate, Value, router

URL = "/test/values"
MARK = "hunter2"


@pytest.fixture(scope="module")
async def app_with_values(settings: Settings) -> AsyncIterator[FastAPI]:
    async with running(settings) as app:
        app.include_router(router)
        engine = app.state.resources.database.engine
        async with engine.begin() as connection:
            await connection.run_sync(Separate.metadata.create_all)
        yield app
        async with engine.begin() as connection:
            await connection.run_sync(Separate.metadata.drop_all)


@pytest.fixture
async def caller(app_with_values: FastAPI) -> AsyncIterator[httpx2.AsyncClient]:
    async with client_of(app_with_values) as client:
        yield client


class Reference(Input):
    id: Id


async def send(caller: httpx2.AsyncClient, **values: Any) -> httpx2.Response:
    return await caller.post(URL, json={**EXAMPLE, **values})


EXTREMES = [
    ("day", "0001-01-01"),
    ("day", "9999-12-31"),
    ("day", "2024-02-29"),
    ("number", 2**63 - 1),
    ("number", -(2**63)),
    ("number", 0),
    ("few", 9),
    ("few", 0),
    ("total", {"amount": -1, "currency": "JPY"}),
    ("price", "9999999999.99"),
    ("price", "-9999999999.99"),
    ("price", "0.01"),
    ("status", "in review"),
    ("url", "http://localhost:8000"),
    ("url", "HTTPS://Example.COM"),
    ("url", "https://xn--bcher-kva.example/%C3%A4?a=b&c%5B%5D=d"),
    ("url", "http://127.0.0.1:65535/?q=?#/a?b"),
    ("url", "https://example.com/" + "a" * 1_980),
    ("slug", "a"),
    ("slug", "2026-in-review"),
    ("slug", "a" * 100),
]


@pytest.mark.parametrize(("name", "value"), EXTREMES)
async def test_value_is_stored_and_returned_unchanged(
    caller: httpx2.AsyncClient, name: str, value: Any
) -> None:
    response = await send(caller, **{name: value})
    assert response.status_code == 201, response.text
    assert response.json() == {**EXAMPLE, name: value}
    if name != "total":
        found = await caller.get(URL, params={name: value})
        assert {**EXAMPLE, name: value} in found.json()


@pytest.mark.parametrize(
    ("name", "sent", "returned"),
    [
        ("moment", "2026-02-28T12:00:00+01:00", "2026-02-28T11:00:00Z"),
        ("moment", "2026-02-28t12:00:00.5z", "2026-02-28T12:00:00.500000Z"),
        ("moment", "2026-02-28T12:00:00-00:00", "2026-02-28T12:00:00Z"),
        ("moment", "0001-01-02T00:00:00+23:59", "0001-01-01T00:01:00Z"),
        ("moment", "9999-12-31T23:59:59Z", "9999-12-31T23:59:59Z"),
        ("moment", "9999-12-31T23:59:59.999998Z", "9999-12-31T23:59:59.999998Z"),
        ("moment", "9999-12-30T23:59:59-23:59", "9999-12-31T23:58:59Z"),
        ("price", "1", "1.00"),
        ("price", "-0", "0.00"),
        ("price", "-0.0", "0.00"),
        ("price", "1.5", "1.50"),
    ],
)
async def test_value_is_returned_in_one_form(
    caller: httpx2.AsyncClient, name: str, sent: str, returned: str
) -> None:
    response = await send(caller, **{name: sent})
    assert response.status_code == 201, response.text
    assert response.json()[name] == returned
    for spelling in (sent, returned):
        found = await caller.get(URL, params={name: spelling})
        assert returned in [one[name] for one in found.json()]


@pytest.mark.parametrize("number", ["1.0", "1e0", "10e-1"])
async def test_number_without_a_fraction_is_whole(caller: httpx2.AsyncClient, number: str) -> None:
    body = json.dumps(EXAMPLE).replace('"number": -3', f'"number": {number}')
    headers = {"Content-Type": "application/json"}
    response = await caller.post(URL, content=body, headers=headers)
    assert response.json()["number"] == 1


REFUSED: dict[str, list[Any]] = {
    "day": [
        *("0000-01-01", "2026-02-29", "2026-13-01", "2026-1-1", "20260101", "2026-W01-1", ""),
        *("2026-01-01T00:00:00", "2026-01-01T00:00:00Z", "10000-01-01", "-2026-01-01", "today"),
        *("2026-01-01\n", " 2026-01-01", "２０２６-01-01", 0, 1.0, 1_700_000_000, True, None, []),
        MARK,
    ],
    "moment": [
        *("2026-01-01T00:00:00", "2026-01-01T00:00:60Z", "2016-12-31T23:59:60Z", "2026-01-01"),
        *("2026-01-01T24:00:00Z", "2026-01-01T00:60:00Z", "2026-02-29T00:00:00Z", "0", "now"),
        *("2026-01-01T00:00:00+24:00", "2026-01-01T00:00:00+00:60", "2026-01-01T00:00:00+1:00"),
        *("2026-01-01 00:00:00Z", "2026-01-01T00:00Z", "2026-01-01T00:00:00.Z", "20260101T000000Z"),
        *("2026-01-01T00:00:00.1234567Z", "2026-01-01T00:00:00+01", "2026-01-01T00:00:00,5Z"),
        *("0001-01-01T00:00:00+00:01", "9999-12-31T23:59:59-00:01", "0001-01-01T00:00:00Z"),
        *("9999-12-31T23:59:59.999999Z", "0000-12-31T23:59:59Z", "2026-01-01T00:00:00+01:00\n"),
        *("2026-01-01T00:00:00 Europe/Paris", 0, 1.5, 1_700_000_000, True, None, {}, MARK),
    ],
    "number": [2**63, -(2**63) - 1, 1e300, 1.5, True, False, "1", "1.0", "", None, [1], MARK],
    "few": [-1, 10, 9.5, True, "1", None],
    "total": [
        *(5, "EUR 5", None, [], {}, {"amount": 1}, {"currency": "EUR"}, True),
        *({"amount": one, "currency": "EUR"} for one in ("1", 1.5, True, None, 2**63)),
        *({"amount": 1, "currency": one} for one in ("eur", "EU", "EURO", "EÜR", "EUR\n", 978, "")),
        {"amount": 1, "currency": "EUR", "more": 1},
    ],
    "price": [
        *("1e3", "1E3", "NaN", "Infinity", "-Infinity", "sNaN", "+1", "01", ".5", "1.", "1.234"),
        *(
            "10000000000",
            "1,5",
            "1_000",
            " 1",
            "1\n",
            "١",
            "",
            "--1",
            "0x1",
            "-",
            1,
            1.5,
            True,
            None,
        ),
        *([], MARK, "9" * 5_000),
    ],
    "status": ["OPEN", "Open", "open ", "", 0, True, None, [], MARK],
    "url": [
        *(
            "example.com",
            "//example.com",
            "ftp://example.com",
            "javascript:alert(1)",
            "http://",
            "",
        ),
        *(
            "http:///a",
            "http://a@example.com",
            f"http://u:{MARK}@example.com",
            "http://exa mple.com",
        ),
        *("http://example.com/ ", "http://example.com/\n", "http://example.com/\t", "http:/a", "a"),
        *("http://example.com\\@evil.com", "http://example.com:0", "http://example.com:65536"),
        *(
            "http://bücher.example",
            "http://example.com/ä",
            "http://example.com/%zz",
            "http://-a.com",
        ),
        *("http://a..b", "http://.a", "http://1.2.3", "http://256.1.1.1", "http://0x7f.1", 1, None),
        *("http://" + "a" * 64 + ".com", "https://example.com/" + "a" * 1_981, "http://[::1", True),
        *("http://аpple.com", "http://example.com/\u202e", "http://example.com/\x00", MARK),
    ],
    "slug": [
        *(
            "",
            "-",
            "a-",
            "-a",
            "a--b",
            "A",
            "a b",
            "a_b",
            "ä",
            "a\n",
            "a" * 101,
            "ß",
            "１",
            1,
            None,
        ),
        *(True, [], "a.b", "a/b", "a\x00"),
    ],
}


@pytest.mark.parametrize("name", sorted(REFUSED))
async def test_other_values_are_refused_without_being_repeated(
    caller: httpx2.AsyncClient, name: str
) -> None:
    for value in REFUSED[name]:
        response = await send(caller, **{name: value})
        assert response.status_code == 422, (value, response.text)
        problem = response.json()
        assert {one["loc"][1] for one in problem["errors"]} == {name}, value
        assert MARK not in response.text


@pytest.mark.parametrize("name", sorted(REFUSED.keys() - {"total"}))
async def test_other_values_are_refused_in_a_query(caller: httpx2.AsyncClient, name: str) -> None:
    for value in [one for one in REFUSED[name] if isinstance(one, str) and one != "1"]:
        response = await caller.get(URL, params={name: value})
        assert response.status_code == 422, (value, response.text)
        assert {one["loc"][1] for one in response.json()["errors"]} == {name}, value
        assert MARK not in str(response.json()["errors"])


@pytest.mark.parametrize("value", ["1", True, 0, 1.5, 2**63, None])
def test_id_in_a_body_is_a_number(value: object) -> None:
    with pytest.raises(ValidationError):
        Reference.model_validate({"id": value})
    assert Reference.model_validate({"id": 1.0}).id == 1


@pytest.mark.parametrize("number", ["-9223372036854775809", "1e30", "9" * 40])
def test_number_beyond_64_bits_is_refused_with_no_limit_of_another_field(number: str) -> None:
    class Seats(Input):
        seats: Annotated[Whole, Field(ge=1, le=500)]

    with pytest.raises(ValidationError, match="a whole number of 64 bits"):
        Seats.model_validate_json(f'{{"seats": {number}}}')


@pytest.mark.parametrize(
    "number", ["1.0", "1e3", "+1", "01", "-0", "1_0", " 1", "1 ", "٣", "true", "9" * 5_000, ""]
)
async def test_number_in_a_query_has_one_spelling(caller: httpx2.AsyncClient, number: str) -> None:
    for name in ("number", "after"):
        assert (await caller.get(URL, params={name: number})).status_code == 422


@pytest.mark.parametrize(
    ("name", "value"), [("url", "http://" + "a." * 100_000 + "!"), ("slug", "a-" * 100_000)]
)
async def test_long_text_is_refused_by_its_length(
    caller: httpx2.AsyncClient, name: str, value: str
) -> None:
    problem = (await send(caller, **{name: value})).json()
    assert [error["type"] for error in problem["errors"]] == ["string_too_long"]


@examples(
    max_examples=50, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture]
)
@given(
    day=st.dates(),
    moment=st.datetimes(min_value=datetime(1, 1, 2), timezones=st.just(UTC)),
    number=st.integers(-(2**63), 2**63 - 1),
    amount=st.integers(-(2**63), 2**63 - 1),
    price=st.decimals(-(10**10) + 1, 10**10 - 1, places=2),
    slug=st.from_regex(r"[a-z0-9]+(-[a-z0-9]+)*", fullmatch=True).filter(lambda s: len(s) <= 100),
)
async def test_any_value_is_stored_and_returned_unchanged(
    caller: httpx2.AsyncClient,
    day: date,
    moment: datetime,
    number: int,
    amount: int,
    price: Any,
    slug: str,
) -> None:
    sent = {"day": f"{day}", "number": number, "total": {"amount": amount, "currency": "XAU"}}
    response = await send(caller, **sent, moment=moment.isoformat(), price=f"{price:f}", slug=slug)
    if moment == datetime.max.replace(tzinfo=UTC):
        assert response.status_code == 422
        return
    stored = response.json()
    assert {name: stored[name] for name in sent} == sent
    assert datetime.fromisoformat(stored["moment"]) == moment
    assert stored["price"] == f"{price or abs(price):f}"
    assert stored["slug"] == slug


async def test_table_refuses_a_word_that_is_not_a_choice(
    app_with_values: FastAPI, caller: httpx2.AsyncClient
) -> None:
    await send(caller)
    resources: ProcessResources = app_with_values.state.resources
    with pytest.raises(DBAPIError, match="ck_test_values_status"):
        async with resources.database.transaction() as session:
            await session.execute(text("UPDATE test_values SET status = 'lost'"))
    async with resources.database.transaction() as session:
        await session.execute(delete(Value))
