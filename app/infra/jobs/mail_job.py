"""Declares jobs that send a mail, which have to wait until a mail server is back."""

from collections.abc import Callable
from datetime import timedelta

from app.infra.jobs.registry import F, job

# The pauses double up to an hour (`executor.retry_delay`), so these deliveries take about a day
# with JOBS_RETRY_SECONDS=5.
DELIVERIES = 34
# Mails of one worker wait for each other, each for MAIL_TIMEOUT_SECONDS at most.
TIME_LIMIT = timedelta(minutes=10)


def mail_job(name: str) -> Callable[[F], F]:
    """Declare an async function that sends one mail as the job `name`. See `job`.

    It is tried again for about a day before it is held. Let it make what expires, such as a token,
    each time it runs.
    """
    return job(name, deliveries=DELIVERIES, time_limit=TIME_LIMIT)
