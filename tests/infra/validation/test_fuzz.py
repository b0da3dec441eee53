"""The schemas of the input types say what is accepted: Schemathesis finds no difference."""

from collections.abc import Iterator
from copy import deepcopy
from typing import Any

import hypothesis
import pytest
import schemathesis

from app.main import create_app
from app.settings import Settings
from tests.contract.serving import serve
from tests.contract.test_fuzz import CALLS, Case, judge
from tests.infra.validation.values import Separate, router


def document() -> dict[str, Any]:
    app = create_app(Settings.model_validate({"docs": {"enabled": True}}))
    app.include_router(router)
    full = app.openapi()
    paths = {path: one for path, one in full["paths"].items() if path.startswith("/test/")}
    return {**full, "paths": paths}


DOCUMENT = document()
schema = schemathesis.openapi.from_dict(deepcopy(DOCUMENT))


@pytest.fixture
def url(settings: Settings, clean: None) -> Iterator[str]:
    with serve(settings) as served:
        served.app.include_router(router)
        engine = served.resources.database.engine

        async def change(how: Any) -> None:
            async with engine.begin() as connection:
                await connection.run_sync(how)

        served.run(change(Separate.metadata.create_all))
        yield served.url
        served.run(change(Separate.metadata.drop_all))


@schema.parametrize()
@hypothesis.settings(CALLS, max_examples=max(100, CALLS.max_examples))
def test_what_the_schema_says_is_accepted_and_nothing_else(case: Case, url: str) -> None:
    arguments: dict[str, Any] = {"base_url": url, "headers": None}
    judge(case, case.call(**arguments), arguments)


def test_limits_behind_a_validator_have_the_names_of_json_schema() -> None:
    few = DOCUMENT["components"]["schemas"]["ValueWrite"]["properties"]["few"]
    assert few == {
        "exclusiveMaximum": 10,
        "minimum": 0,
        "maximum": 2**63 - 1,
        "title": "Few",
        "type": "integer",
    }
