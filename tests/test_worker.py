"""The job process, as an orchestrator sees it."""

import asyncio
import json
import os
import signal
import subprocess
import sys
from io import StringIO
from pathlib import Path

import httpx2
import pytest
from anyio.to_thread import current_default_thread_limiter
from sqlalchemy import text

from app import jobs
from app.infra.jobs.enqueue import enqueue
from app.infra.resources import ProcessResources
from app.settings import Settings
from app.worker import create_worker
from dev.server_process import free_port
from tests.application import client_of

PROJECT = Path(__file__).parents[1]


@pytest.fixture(autouse=True)
def empty_queue(clean: None) -> None:
    """Leave no jobs behind."""


def environment(settings: Settings, **others: str) -> dict[str, str]:
    return {
        **os.environ,
        "DATABASE_URL": settings.database.url.get_secret_value(),
        "VALKEY_URL": settings.valkey.url.get_secret_value(),
        **others,
    }


async def command(settings: Settings, *words: str) -> tuple[int, str, str]:
    """Run `python -m app.jobs`, and return its exit code, its output and its errors.

    It runs in this process, because a process of its own takes seconds to import the modules.
    """

    def run() -> int:
        try:
            jobs.main()
        except SystemExit as ended:
            if isinstance(ended.code, str):
                sys.stderr.write(ended.code)
            return ended.code if isinstance(ended.code, int) else 1
        return 0

    output, errors = StringIO(), StringIO()
    with pytest.MonkeyPatch.context() as patch:
        for name, value in environment(settings).items():
            patch.setenv(name, value)
        patch.setattr("sys.argv", ["app.jobs", *words])
        patch.setattr("sys.stdout", output)
        patch.setattr("sys.stderr", errors)
        # The command starts an event loop, and a thread has one at most.
        exit_code = await asyncio.to_thread(run)
    return exit_code, output.getvalue(), errors.getvalue()


async def test_it_has_the_pages_that_probes_and_prometheus_need(settings: Settings) -> None:
    app = create_worker(settings)
    async with app.router.lifespan_context(app), client_of(app) as client:
        assert (await client.get("/livez")).status_code == 200
        assert (await client.get("/readyz")).json()["checks"]["database"] == "ok"
        assert "job_duration_seconds" in (await client.get("/metrics")).text
        assert (await client.get("/v1/posts")).status_code == 404


async def test_the_number_of_its_threads_is_a_setting(settings: Settings) -> None:
    server = settings.server.model_copy(update={"threads": 3})
    app = create_worker(settings.model_copy(update={"server": server}))
    async with app.router.lifespan_context(app):
        assert current_default_thread_limiter().total_tokens == 3


async def test_it_starts_without_the_database_and_is_not_ready(settings: Settings) -> None:
    away = settings.model_dump()
    away["database"] |= {"url": "postgresql://a:b@127.0.0.1:1/x"}
    app = create_worker(Settings.model_validate(away))
    async with app.router.lifespan_context(app), client_of(app) as client:
        assert (await client.get("/livez")).status_code == 200
        response = await client.get("/readyz")
        assert (response.status_code, response.json()["code"]) == (503, "unavailable")


def test_it_warns_that_no_mail_can_be_sent(settings: Settings) -> None:
    secret = "a secret of production, which is long enough"
    changes = {"ENVIRONMENT": "production", "AUTH_SECRET": secret, "MAIL_URL": ""}
    with subprocess.Popen(
        [sys.executable, "-m", "app.worker"],
        cwd=PROJECT,
        env=environment(settings, METRICS_PORT="0", **changes),
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        encoding="utf-8",
    ) as process:
        assert process.stdout is not None
        lines = []
        for line in process.stdout:
            lines.append(line)
            if "takes jobs" in line:
                break
        process.send_signal(signal.SIGTERM)
        lines += process.communicate(timeout=60)[0]
    said = "".join(lines)
    assert said.count("MAIL_URL is not set, so no mail is sent") == 1
    assert "Set MAIL_URL and MAIL_LINKS_URL" in said


@pytest.mark.parametrize("service_workers", ["2", "auto"])
def test_it_ends_in_an_orderly_way(settings: Settings, service_workers: str) -> None:
    port = free_port()
    with subprocess.Popen(
        [sys.executable, "-m", "app.worker"],
        cwd=PROJECT,
        env=environment(settings, METRICS_PORT=str(port), WEB_CONCURRENCY=service_workers),
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        encoding="utf-8",
    ) as process:
        assert process.stdout is not None
        lines = []
        for line in process.stdout:
            lines.append(line)
            if "takes jobs" in line:
                break
        assert httpx2.get(f"http://127.0.0.1:{port}/readyz").status_code == 200
        process.send_signal(signal.SIGTERM)
        lines += process.communicate(timeout=60)[0]
    assert process.returncode == 0, lines


# Runs the job worker, and sends it SIGTERM when a module is imported that is named.
TERM_AT = """
import os, runpy, signal, sys

def send_at_the_import(frame, event, _):
    if event == "call" and frame.f_code.co_qualname == "<module>":
        if frame.f_globals.get("__name__") == sys.argv[1]:
            sys.setprofile(None)
            os.kill(os.getpid(), signal.SIGTERM)

sys.setprofile(send_at_the_import)
runpy.run_module("app.worker", run_name="__main__", alter_sys=True)
"""


@pytest.mark.slow
@pytest.mark.parametrize("module", ["uvicorn", "app.settings"])
def test_it_ends_when_it_gets_a_signal_while_it_imports(settings: Settings, module: str) -> None:
    ended = subprocess.run(
        [sys.executable, "-c", TERM_AT, module],
        cwd=PROJECT,
        env=environment(settings, METRICS_PORT="0"),
        capture_output=True,
        check=False,
        text=True,
        encoding="utf-8",
        timeout=60,
    )
    assert ended.returncode == 0, ended.stderr
    assert "Traceback" not in ended.stdout + ended.stderr


@pytest.mark.slow
def test_it_ends_when_it_gets_a_signal_while_it_starts(settings: Settings) -> None:
    functions = [
        "__main__.load_worker",
        "app.infra.observability.logs.Log.__init__",
        "__main__.create_worker",
        "__main__.serve",
        "uvicorn.config.Config.__init__",
        "uvicorn.server.Server.run",
        "uvicorn.server.Server.serve",
        "uvicorn.server.Server.capture_signals",
        "uvicorn.server.Server._serve",
        "app.infra.lifespan.open_resources",
        "__main__.run_jobs",
        "app.infra.jobs.worker.JobWorker.poll",
        "uvicorn.server.Server.main_loop",
    ]
    variables = environment(settings, METRICS_PORT="0")
    variables.pop("COVERAGE_PROCESS_CONFIG", None)  # it would double the time
    output = subprocess.check_output(
        [sys.executable, "-m", "tests.interrupted_worker", *functions],
        cwd=PROJECT,
        env=variables,
        encoding="utf-8",
    )
    runs = json.loads(output)
    assert runs.keys() == set(functions)
    for function, (exit_code, said) in runs.items():
        assert exit_code == 0, (function, said)
        assert "Traceback" not in said, (function, said)


async def test_command_lists_retries_and_discards_jobs(
    settings: Settings, resources: ProcessResources
) -> None:
    async with resources.database.transaction() as session:
        for _ in range(3):
            await enqueue(session, "jobs.prune_log")
        await session.execute(
            text("UPDATE pgqueuer SET status = 'failed', headers = CAST(:headers AS jsonb)"),
            {"headers": '{"error": "X"}'},
        )
    _, listed, _ = await command(settings)
    assert "held: 3" in listed
    assert "last error: X" in listed
    assert "Job 1 runs again." in (await command(settings, "retry", "1"))[1]
    assert "Job 2 is discarded." in (await command(settings, "discard", "2"))[1]
    exit_code, output, errors = await command(settings, "discard", "2", "3")
    assert "Job 3 is discarded." in output
    assert (exit_code, "Not in the queue" in errors) == (1, True)
    async with resources.database.read() as session:
        rows = await session.execute(text("SELECT id, status::text, attempts FROM pgqueuer"))
        assert [tuple(row) for row in rows] == [(1, "queued", 0)]
    assert "No job is held." in (await command(settings, "retry", "all"))[2]


@pytest.mark.parametrize("words", [["retry"], ["retry", "x"], ["drop", "1"], ["list", "1"]])
async def test_command_explains_wrong_words(settings: Settings, words: list[str]) -> None:
    exit_code, _, errors = await command(settings, *words)
    assert exit_code == 2
    assert "usage" in errors


def test_command_explains_that_the_database_is_away(settings: Settings) -> None:
    """As a process of its own, like an operator runs it."""
    result = subprocess.run(
        [sys.executable, "-m", "app.jobs"],
        cwd=PROJECT,
        env=environment(settings, DATABASE_URL="postgresql://a:b@127.0.0.1:1/x"),
        capture_output=True,
        text=True,
        check=False,
        encoding="utf-8",
    )
    assert result.returncode == 1
    assert "Check DATABASE_URL" in result.stderr
    assert "Traceback" not in result.stderr
