"""The jobs of the service, by their names.

A feature declares its jobs in `jobs.py`, as async functions. Their arguments are keyword-only:

    @job("drafts.publish")
    async def publish(context: JobContext, *, draft_id: int) -> None: ...
"""

import inspect
from collections.abc import Awaitable, Callable
from dataclasses import dataclass
from datetime import timedelta
from difflib import get_close_matches
from importlib import import_module
from importlib.util import find_spec
from pkgutil import iter_modules
from types import ModuleType
from typing import TypeVar

from sqlalchemy.ext.asyncio import AsyncSession

from app.infra.jobs.arguments import Arguments, InvalidJob
from app.infra.jobs.call_sites import check_calls
from app.infra.observability.request_context import request_context
from app.infra.resources import ProcessResources

MAINTENANCE = "app.infra.jobs.maintenance"
SCHEDULE = "schedule"  # the unique key of the run that is scheduled


@dataclass(frozen=True, slots=True)
class JobContext:
    """What a job function gets.

    `session` is a transaction. It is committed when the function returns, and the same transaction
    removes the job from the queue. So the changes are made exactly once, even if a worker dies. It
    takes a connection at its first statement. A function that does anything else, such as sending
    a mail, may do that twice.
    """

    job_id: int
    delivery: int  # 1 when the job runs for the first time
    session: AsyncSession
    resources: ProcessResources

    def begin_stream(self) -> None:
        """Count no further statements for the budget, because the job works through many rows."""
        if (current := request_context.get()) is not None:
            current.has_started = True


JobFunction = Callable[..., Awaitable[None]]
F = TypeVar("F", bound=JobFunction)


@dataclass(frozen=True, slots=True)
class Job:
    """A declared job. None means that the setting applies."""

    name: str
    function: JobFunction
    arguments: Arguments
    every: timedelta | None = None
    deliveries: int | None = None
    time_limit: timedelta | None = None

    async def call(self, context: JobContext, stored: bytes | None) -> None:
        await self.function(context, **self.arguments.from_json(stored))


_jobs: dict[str, Job] = {}


def job(
    name: str,
    *,
    every: timedelta | None = None,
    deliveries: int | None = None,
    time_limit: timedelta | None = None,
) -> Callable[[F], F]:
    """Declare an async function as the job `name`, by convention "feature.verb".

    - `every`: the job also runs by itself, this long after it ran the last time.
    - `deliveries`: how often it is tried before it is held, instead of JOBS_DELIVERIES.
    - `time_limit`: how long it may run, instead of JOBS_TIME_LIMIT_SECONDS.
    """

    def declare(function: F) -> F:
        is_async = inspect.iscoroutinefunction(function)
        if not is_async:
            raise InvalidJob(f"The job {name} has to be an `async def` function.")
        arguments = Arguments(name, function)
        if every is not None and arguments.required:
            raise InvalidJob(f"The job {name} runs by itself, so its arguments need defaults.")
        if name in _jobs:
            modules = _jobs[name].function.__module__, function.__module__
            raise InvalidJob(
                f"Two jobs have the name {name}, in {' and in '.join(modules)}. Rename one of them."
            )
        _jobs[name] = Job(name, function, arguments, every, deliveries, time_limit)
        return function

    return declare


def all_jobs() -> list[Job]:
    return list(_jobs.values())


def find_job(name: str) -> Job:
    """Return a job, or raise `InvalidJob`."""
    try:
        return _jobs[name]
    except KeyError:
        close = get_close_matches(name, _jobs, n=1)
        meant = f" Did you mean {close[0]}?" if close else ""
        raise InvalidJob(
            f"There is no job with the name {name}.{meant} A feature declares its jobs in jobs.py."
        ) from None


def load_jobs(features: ModuleType) -> None:
    """Import `jobs` of every feature, and check each call of `enqueue` in the code of `app`.

    Exits with a sentence if a job or a call is wrong.
    """
    try:
        import_module(MAINTENANCE)
        for feature in iter_modules(features.__path__, f"{features.__name__}."):
            if find_spec(f"{feature.name}.jobs"):
                import_module(f"{feature.name}.jobs")
        check_calls(features, lambda name: find_job(name).arguments)
    except InvalidJob as error:
        raise SystemExit(f"The service cannot start. {error}") from None
