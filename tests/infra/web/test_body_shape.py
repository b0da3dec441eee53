"""The number of values in a body is limited before it is parsed."""

import json
import time

import httpx2
import pytest
from starlette.requests import Request

from app.errors import InvalidRequest
from app.infra.web.body_shape import MAX_DEPTH, MAX_DIGITS, check_body_shape
from tests.contract.document import APPLICATION, OPERATIONS, Json, Operation, api_routes
from tests.features.users.factory import PASSWORD
from tests.sample.factory import NoteFactory

Client = httpx2.AsyncClient
JSON, FORM = "application/json", "application/x-www-form-urlencoded"
MOST = 10

TAKEN = [
    *(b"", b"1", b"[]", b'{"a": 1}', b"[1,2,3,4,5,6,7,8,9]", b"\xef\xbb\xbf{}"),
    b'{"a": "' + b",[{:" * 1_000 + b'"}',
    b'{"a": "' + rb"\"\\,[{\\" * 1_000 + b'"}',
    b'["\\\\", "\\\\\\"", ",,,,,,,,,,,,,,,"]',
    '["é", "😀"]'.encode(),
    b"9" * (MAX_DIGITS - 1),
    # Malformed, which the parser reports.
    *(b"{", b"]", b'"', b"{]", b'{"a"', b"\\"),
]
REFUSED = [
    b"[" + b"1," * MOST + b"1]",
    b"[" + b"{}," * MOST + b"{}]",
    b"[" * (MOST + 1),
    b"{" + b",".join(b'"%d": 1' % n for n in range(MOST + 2)) + b"}",
    b'["\\\\",' + b"1," * MOST + b"1]",
    b'["\\"",' + b"1," * MOST + b"1]",
    b'""' * MOST * 3,
    b"9" * MAX_DIGITS,
    b"1." + b"01" * MAX_DIGITS,
    '{"a": 1}'.encode("utf-16"),
    '{"a": 1}'.encode("utf-16-le"),
    '{"a": 1}'.encode("utf-32-be"),
    *(b"\xff\xfe[]", b'["\xed\xa0\x80"]', b'["\xe9"]'),
]


@pytest.mark.parametrize("body", TAKEN)
def test_body_within_the_limits_is_accepted(body: bytes) -> None:
    check_body_shape(scope(JSON), body, MOST)


@pytest.mark.parametrize("body", REFUSED)
@pytest.mark.parametrize("media_type", [JSON, "Application/JSON ; charset=utf-16", "a/b+json"])
def test_body_beyond_the_limits_is_refused(body: bytes, media_type: str) -> None:
    with pytest.raises(InvalidRequest):
        check_body_shape(scope(media_type), body, MOST)


@pytest.mark.parametrize(("depth", "refused"), [(MAX_DEPTH, False), (MAX_DEPTH + 1, True)])
def test_nesting_is_limited(depth: int, refused: bool) -> None:
    for opening, closing in (("[", "]"), ('{"a":', "}")):
        # Together with other containers, which are not nested in each other.
        body = f'["[[[", {"[]," * 50} {opening * (depth - 1)}1{closing * (depth - 1)}]'.encode()
        if refused:
            with pytest.raises(InvalidRequest, match="nested"):
                check_body_shape(scope(JSON), body, 1_000)
        else:
            check_body_shape(scope(JSON), body, 1_000)


@pytest.mark.parametrize("body", [b"[" * 33 + b"1]" * 500_000, b"[{" * 17 + b"1}" * 500_000])
def test_check_of_the_nesting_is_fast(body: bytes) -> None:
    # The CPU time of this thread does not depend on the load of the machine.
    seconds = []
    for _ in range(5):
        began = time.thread_time()
        with pytest.raises(InvalidRequest, match="nested"):
            check_body_shape(scope(JSON), body, 1_000)
        seconds.append(time.thread_time() - began)
    assert min(seconds) < 0.04


@pytest.mark.parametrize("separator", [b"&", b";", b"a=b&"])
def test_number_of_form_fields_is_limited(separator: bytes) -> None:
    check_body_shape(scope(FORM), separator * (MOST - 1), MOST)
    with pytest.raises(InvalidRequest, match="fields"):
        check_body_shape(scope(FORM), separator * MOST, MOST)


def scope(media_type: str) -> Json:
    return {"type": "http", "headers": [(b"content-type", media_type.encode())]}


@pytest.mark.parametrize("encoding", ["utf-16", "utf-16-be", "utf-32", "utf-32-le"])
async def test_json_must_be_utf_8(client: Client, encoding: str) -> None:
    account = {"email": "ada@example.com", "name": "Ada", "password": PASSWORD}
    for name, status in (("utf-8", 201), (encoding, 422)):
        content = json.dumps(account).encode(name)
        headers = {"Content-Type": JSON}
        response = await client.post("/v1/users", content=content, headers=headers)
        assert response.status_code == status
    assert response.json()["code"] == "invalid_request"


async def test_many_unknown_keys_are_refused_before_they_are_reported(
    client: Client, make: NoteFactory, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(Request, "json", None)
    headers = make.headers(await make.user())
    body = {f"k{number}": 1 for number in range(8_000)}
    response = await client.post("/test/notes", json=body, headers=headers)
    assert response.status_code == 422
    assert "1000 values" in response.json()["detail"]


# The most characters of a value whose schema has no maxLength, by its format or its type.
LENGTHS = {"date": 10, "date-time": 35, "uuid": 36, "integer": 20, "boolean": 5, "null": 4}

# A file is as large as its route says.
WITH_BODY = [operation for operation in OPERATIONS if "properties" in operation.body]


@pytest.mark.parametrize("operation", WITH_BODY, ids=str)
def test_route_accepts_the_largest_body_of_its_schema_and_not_much_more(
    operation: Operation,
) -> None:
    [limit] = [
        route.max_body_size
        for route in api_routes(APPLICATION)
        if route.path_format == operation.path and operation.method in (route.methods or ())
    ]
    assert limit is not None, "Declare max_body_size: what the body needs, and no more."
    needed = largest(operation)
    assert needed <= limit <= max(2 * needed, 8_192)


def largest(operation: Operation) -> int:
    """Return the bytes of the largest body.

    A character takes 12 of them: in JSON as two escaped surrogates, in a form as four escaped
    bytes. Fields of different branches are not sent together.
    """
    fields = operation.body["properties"]
    branches = [operation.body[name] for name in ("then", "else") if name in operation.body]
    return max(
        sum(len(name) + 8 + 12 * length(operation, fields[name]) for name in branch["required"])
        for branch in branches or [{"required": list(fields)}]
    )


def length(operation: Operation, field: Json) -> int:
    """Return the most characters that a field can have."""
    field = operation.resolve(field)
    if "anyOf" in field:
        return max(length(operation, option) for option in field["anyOf"])
    if "properties" in field:
        parts = field["properties"].items()
        return sum(len(name) + 8 + length(operation, part) for name, part in parts)
    if "enum" in field:
        return max(len(str(value)) for value in field["enum"])
    found = field.get("maxLength") or LENGTHS.get(field.get("format") or field["type"])
    assert found is not None, f"Give {field} a largest length."
    return int(found)
