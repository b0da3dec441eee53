"""Wrong declarations and wrong calls end the start with a sentence."""

import sys
from collections.abc import Iterator
from datetime import date, datetime, timedelta
from enum import StrEnum
from pathlib import Path
from types import ModuleType
from uuid import UUID

import pytest

from app.infra.jobs import registry
from app.infra.jobs.arguments import Arguments, InvalidJob
from app.infra.jobs.registry import JobContext, find_job, job, load_jobs
from app.infra.validation.fields import Email


class Kind(StrEnum):
    GOOD = "good"


@pytest.fixture(autouse=True)
def own_jobs(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(registry, "_jobs", dict(registry._jobs))


@pytest.fixture
def features(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[ModuleType]:
    """A package with one feature, `shelves`, that has one job."""
    folder = tmp_path / "some_features" / "shelves"
    folder.mkdir(parents=True)
    for file in (folder.parent / "__init__.py", folder / "__init__.py"):
        file.touch()
    (folder / "jobs.py").write_text(
        "from app.infra.jobs.registry import JobContext, job\n\n"
        '@job("shelves.dust")\n'
        "async def dust(context: JobContext, *, shelf_id: int, often: bool = False) -> None: ...\n",
        encoding="utf-8",
    )
    monkeypatch.syspath_prepend(tmp_path)
    import some_features  # type: ignore[import-not-found]

    yield some_features
    for name in [name for name in sys.modules if name.startswith("some_features")]:
        del sys.modules[name]


def call(features: ModuleType, arguments: str) -> None:
    """Write a service that enqueues a job, and start."""
    service = Path(features.__path__[0]) / "shelves" / "service.py"
    service.write_text(f"async def f(session):\n    await enqueue(session, {arguments})\n", "utf-8")
    load_jobs(features)


@pytest.mark.parametrize(
    "arguments",
    [
        '"shelves.dust", shelf_id=1',
        '"shelves.dust", shelf_id=1, often=True, delay=None, unique=7',
        '"shelves.dust", **values',
        "name, shelf_id=1",
    ],
)
def test_right_call_is_accepted(features: ModuleType, arguments: str) -> None:
    call(features, arguments)
    assert find_job("shelves.dust").arguments.required == {"shelf_id"}


@pytest.mark.parametrize(
    ("arguments", "sentence"),
    [
        (
            '"shelves.dusst", shelf_id=1',
            "no job with the name shelves.dusst. Did you mean shelves.dust?",
        ),
        ('"shelves.dust"', "needs the argument shelf_id"),
        ('"shelves.dust", shelf_id=1, room=2', "has no argument room"),
        ('"shelves.dust", room=2, **values', "has no argument room"),
    ],
)
def test_wrong_call_ends_the_start(features: ModuleType, arguments: str, sentence: str) -> None:
    with pytest.raises(SystemExit) as ended:
        call(features, arguments)
    assert sentence in str(ended.value)
    assert "service.py, line 2" in str(ended.value)
    assert str(ended.value).startswith("The service cannot start.")


def test_wrong_declaration_ends_the_start(features: ModuleType) -> None:
    jobs = Path(features.__path__[0]) / "shelves" / "jobs.py"
    jobs.write_text(jobs.read_text("utf-8").replace("shelf_id: int", "token: str"), "utf-8")
    with pytest.raises(SystemExit, match=r"The service cannot start\. .*token.* secret"):
        load_jobs(features)


def test_types_that_identify_something_are_accepted_and_returned_unchanged() -> None:
    @job("types.all")
    async def function(
        context: JobContext,
        *,
        number: int,
        flag: bool,
        key: UUID,
        day: date,
        moment: datetime,
        kind: Kind,
        email: Email,
        nothing: int | None = None,
    ) -> None: ...

    values: dict[str, object] = {
        "number": 2**62,
        "flag": True,
        "key": UUID(int=7),
        "day": date(2026, 2, 28),
        "moment": datetime.fromisoformat("2026-02-28T12:00:00.000001+01:00"),
        "kind": Kind.GOOD,
        "email": "someone@example.com",
    }
    arguments = find_job("types.all").arguments
    assert arguments.from_json(arguments.to_json(values)) == values | {"nothing": None}


async def old_dust(context: JobContext, *, shelf_id: int) -> None: ...


async def new_dust(context: JobContext, *, shelf_id: int, often: bool = False) -> None: ...


def test_job_of_new_code_that_does_not_use_a_new_argument_runs_in_old_code() -> None:
    old, new = Arguments("shelves.dust", old_dust), Arguments("shelves.dust", new_dust)
    assert old.from_json(new.to_json({"shelf_id": 7})) == {"shelf_id": 7}
    assert old.from_json(new.to_json({"shelf_id": 7, "often": False})) == {"shelf_id": 7}


def test_job_of_old_code_runs_in_new_code_with_the_default_of_a_new_argument() -> None:
    old, new = Arguments("shelves.dust", old_dust), Arguments("shelves.dust", new_dust)
    assert new.from_json(old.to_json({"shelf_id": 7})) == {"shelf_id": 7, "often": False}


def test_job_that_uses_a_new_argument_is_refused_by_old_code() -> None:
    """It would do something else than it was asked for."""
    old, new = Arguments("shelves.dust", old_dust), Arguments("shelves.dust", new_dust)
    with pytest.raises(InvalidJob, match="often: Extra inputs are not permitted"):
        old.from_json(new.to_json({"shelf_id": 7, "often": True}))


def text_argument() -> None:
    @job("wrong")
    async def function(context: JobContext, *, note: str) -> None: ...


def secret_argument() -> None:
    @job("wrong")
    async def function(context: JobContext, *, reset_token: UUID) -> None: ...


def untyped_argument() -> None:
    @job("wrong")
    async def function(context: JobContext, *, note) -> None: ...  # type: ignore[no-untyped-def]


def dictionary() -> None:
    @job("wrong")
    async def function(context: JobContext, *, note: dict[str, int]) -> None: ...


def positional_argument() -> None:
    @job("wrong")
    async def function(context: JobContext, note_id: int) -> None: ...


def no_context() -> None:
    @job("wrong")
    async def function(*, note_id: int) -> None: ...


def no_parameter() -> None:
    @job("wrong")
    async def function() -> None: ...


def ordinary_function() -> None:
    @job("wrong")  # type: ignore[type-var]
    def function(context: JobContext) -> None: ...


def schedule_with_an_argument() -> None:
    @job("wrong", every=timedelta(hours=1))
    async def function(context: JobContext, *, note_id: int) -> None: ...


def name_of_an_option() -> None:
    @job("wrong")
    async def function(context: JobContext, *, delay: int) -> None: ...


def name_that_is_taken() -> None:
    @job("notes.edit")
    async def function(context: JobContext) -> None: ...


@pytest.mark.parametrize(
    ("declare", "sentence"),
    [
        (text_argument, "type that cannot be stored"),
        (secret_argument, "sounds like a secret"),
        (untyped_argument, "type that cannot be stored"),
        (dictionary, "type that cannot be stored"),
        (positional_argument, "keyword-only"),
        (no_context, "has to be its JobContext"),
        (no_parameter, "has to be its JobContext"),
        (ordinary_function, "`async def`"),
        (schedule_with_an_argument, "need defaults"),
        (name_of_an_option, "`enqueue` uses itself"),
        (name_that_is_taken, "Two jobs have the name notes.edit"),
    ],
)
def test_wrong_declaration_is_refused(declare: object, sentence: str) -> None:
    with pytest.raises(InvalidJob, match=sentence):
        declare()  # type: ignore[operator]
