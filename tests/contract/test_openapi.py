"""The OpenAPI document is the one in `openapi.json` in this folder, and it is true.

After an intended change of the API, write the file again with `make openapi`, and read the
difference as a client would.
"""

import asyncio
import json
import threading
from pathlib import Path
from typing import Any

import httpx2
import pytest
from fastapi import FastAPI

from app.features.users.models import User
from tests.contract.declaration import Ids
from tests.contract.document import DOCUMENT, OPERATIONS, Json, Operation, api_routes
from tests.contract.features import CONTRACTS, ROWS
from tests.features.users.factory import UserFactory

Client = httpx2.AsyncClient

JSON = "application/json"
AGREED = Path(__file__).with_name("openapi.json")
PROBLEM, TOKEN_PROBLEM = (
    {"application/problem+json": {"schema": {"$ref": f"#/components/schemas/{name}"}}}
    for name in ("Problem", "TokenProblem")
)
PUBLIC_TITLES = {name for contract in CONTRACTS for name in contract.schemas}


async def test_the_document_that_is_served_is_the_one_in_openapi_json(client: Client) -> None:
    served = (await client.get("/openapi.json")).json()
    assert served == json.loads(AGREED.read_text(encoding="utf-8")), __doc__
    assert served == DOCUMENT


async def test_the_first_document_is_built_beside_other_requests(
    app: FastAPI, client: Client, monkeypatch: pytest.MonkeyPatch
) -> None:
    build, has_begun, may_end = FastAPI.openapi, threading.Event(), threading.Event()

    def slow(app: FastAPI) -> Json:
        document = build(app)
        has_begun.set()
        assert may_end.wait(60)
        return document

    monkeypatch.setattr(app, "openapi_schema", None)
    monkeypatch.setattr(FastAPI, "openapi", slow)
    first = asyncio.create_task(client.get("/openapi.json"))
    while not has_begun.is_set():
        await asyncio.sleep(0.01)
    second = asyncio.create_task(client.get("/openapi.json"))
    assert (await client.get("/livez")).status_code == 200
    await asyncio.sleep(0.1)  # the second one would be answered with what the first one has so far
    may_end.set()
    assert [one.json() for one in await asyncio.gather(first, second)] == [DOCUMENT, DOCUMENT]


def test_an_operation_has_the_name_of_its_function(app: FastAPI) -> None:
    functions = [str(route.name) for route in api_routes(app) if route.include_in_schema]
    names = [operation.name for operation in OPERATIONS]
    assert sorted(names) == sorted(functions)
    assert len(set(names)) == len(names)


def test_schemas_of_responses_have_their_public_names() -> None:
    titles = {schema["title"] for schema in DOCUMENT["components"]["schemas"].values()}
    assert titles >= PUBLIC_TITLES
    assert [title for title in titles if title.endswith(("Read", "ValidationError"))] == []


def test_every_schema_is_used() -> None:
    text = json.dumps(DOCUMENT)
    for name in DOCUMENT["components"]["schemas"]:
        assert f'"#/components/schemas/{name}"' in text, name


@pytest.mark.parametrize("operation", OPERATIONS, ids=str)
def test_every_error_is_documented_as_a_problem(operation: Operation) -> None:
    errors = {status: answer for status, answer in operation.answers.items() if status >= "4"}
    takes_input = operation.parameters or operation.media_type
    has_oauth_errors = ROWS[str(operation)].has_oauth_errors
    invalid = "400" if has_oauth_errors else "422"
    assert (invalid in errors) == bool(takes_input)
    assert ("413" in errors) == bool(operation.media_type)
    assert ("415" in errors) == bool(operation.media_type)
    assert {"429", "503"} <= errors.keys()
    assert "401" in errors or not operation.needs_account
    for status, answer in errors.items():
        has_error = has_oauth_errors and status < "5"
        assert answer["content"] == (TOKEN_PROBLEM if has_error else PROBLEM), status


@pytest.mark.parametrize("operation", OPERATIONS, ids=str)
def test_a_success_is_documented_with_a_schema_unless_it_is_empty(operation: Operation) -> None:
    answers = {status: answer for status, answer in operation.answers.items() if status < "3"}
    assert len(answers.keys() - {"206"}) == 1  # a part of a file
    for status, answer in answers.items():
        contents = answer.get("content", {}).items()
        schemas = {kind: found.get("schema") or found["itemSchema"] for kind, found in contents}
        if "application/jsonl" in schemas:  # an export can be had as CSV too
            schemas = {"application/jsonl": schemas["application/jsonl"]}
        # An answer that something will happen later may be empty too.
        assert len(schemas) == (status != "204") or (status == "202" and not schemas)
        assert all("$ref" in schema for kind, schema in schemas.items() if kind == JSON)


WITH_EXAMPLES = [
    pytest.param(operation, example, id=str(operation))
    for operation in OPERATIONS
    for example in operation.examples
]


@pytest.mark.parametrize(("operation", "example"), WITH_EXAMPLES)
async def test_every_example_runs(
    client: Client, make: UserFactory, user: User, ids: Ids, operation: Operation, example: Json
) -> None:
    headers = make.headers(user)
    if {"username", "password"} <= example.keys():  # the credentials of an account
        hashed = await make.resources.passwords.hash(example["password"])
        await make.user(email=example["username"], password_hash=hashed)
    kind = "json" if operation.media_type == JSON else "data"
    content: dict[str, Any] = {kind: example}
    response = await client.request(
        operation.method, operation.url(ids), headers=headers, **content
    )
    assert response.is_success, response.text


def test_every_resource_that_is_written_has_an_example() -> None:
    shown = {operation.name for operation in OPERATIONS if operation.examples}
    assert shown == {
        operation.name
        for operation in OPERATIONS
        if operation.media_type and ROWS[str(operation)].has_example
    }
