"""`make mutate`: breaks each function once, in a copy of the code, and expects a test to fail.

The results are kept in .data/mutate: a run that was interrupted goes on where it was, and later
runs repeat only the survivors and the functions that changed. Decision 29 says why no library is
used.
"""

import argparse
import sys
import time
from collections.abc import Iterator

from dev.mutate.mutants import Module
from dev.mutate.recording import Recording
from dev.mutate.run import Run
from dev.mutate.workplace import open_workplace
from dev.servers import DATA, ROOT
from dev.terminal import CommandError

# The code behind the README's promises about data, the cache, security and limits, and its tests.
PACKAGES = {
    ("coherent_cache", "app/infra/cache"): (
        *("tests/coherent_cache", "tests/infra/cache", "tests/test_settings.py"),
    ),
    ("app/infra/dependencies.py", "app/infra/web/request_retry.py"): (
        *("tests/infra/database/test_sessions.py", "tests/infra/database/test_replica.py"),
        *("tests/infra/web/test_request_retry.py", "tests/infra/web/test_request_timeout.py"),
        *("tests/contract/test_fastapi_idioms.py", "tests/infra/web/test_export_clients.py"),
    ),
    ("app/infra/threads.py",): ("tests/infra/test_threads.py",),
    ("app/infra/database",): (
        *("tests/infra/database", "tests/infra/observability/test_diagnostics.py"),
        *("tests/infra/test_health.py", "tests/contract/test_unmigrated.py"),
        "tests/contract/test_tracing.py",
    ),
    ("app/infra/security", "app/features/auth"): (
        *("tests/infra/security", "tests/features/auth", "tests/contract/test_openapi.py"),
        "tests/features/users/test_passwords.py",
    ),
    ("app/infra/rate_limits",): ("tests/infra/rate_limits", "tests/infra/web/test_rate_limit.py"),
    ("app/features/users/dependencies.py",): (
        *("tests/features/users/test_cached_caller.py", "tests/features/accounts"),
        *("tests/features/users/test_dependencies.py", "tests/contract/test_access.py"),
    ),
    (
        *("app/infra/web/*limit*.py", "app/infra/web/*timeout.py", "app/infra/web/body_*.py"),
        *("app/infra/web/upload_queue.py", "app/infra/web/token_required.py"),
    ): (
        *("tests/infra/web/test_*limit*.py", "tests/infra/web/test_*timeout.py"),
        *("tests/infra/web/test_body_*.py", "tests/infra/web/test_upload_queue.py"),
        *("tests/infra/web/test_token_required.py", "tests/contract/test_rate_limits.py"),
    ),
    ("app/infra/places.py",): (
        "tests/infra/test_places.py",
        "tests/infra/web/test_event_stream.py",
    ),
    ("app/infra/*process*.py",): ("tests/infra/test_*process*.py",),
    ("app/infra/http_client/public_*.py",): ("tests/infra/http_client/test_public_urls.py",),
    ("app/infra/web/client_address.py", "app/infra/web/trusted_hops.py"): (
        *("tests/infra/web/test_client_address.py", "tests/infra/web/test_trusted_hops.py"),
        *("tests/infra/web/test_rate_limit.py", "tests/infra/web/test_object_response.py"),
    ),
}
FOLDER = DATA / "mutate"


def mutate(only: str, each: int, minutes: float, seconds: float) -> None:
    FOLDER.mkdir(mode=0o700, parents=True, exist_ok=True)
    with open_workplace(FOLDER / "tree") as work:
        recording = Recording(FOLDER / "tests.json", seconds)
        run = Run(work, recording, FOLDER / "killed.txt", time.monotonic() + 60 * minutes)
        for code, tests in PACKAGES.items():
            modules = {path: Module(ROOT, path) for path in files(*code)}
            chosen = [module for path, module in modules.items() if path.startswith(only)]
            if chosen:
                recording.update(work, files(*tests), modules)
                run.test([mutant for module in chosen for mutant in module.mutants(each)])
    run.report()


def files(*patterns: str) -> Iterator[str]:
    """Yield the Python files that the patterns name. A pattern names files or a folder."""
    for pattern in patterns:
        for path in sorted(ROOT.glob(pattern)):
            for file in sorted(path.rglob("*.py")) if path.is_dir() else [path]:
                yield str(file.relative_to(ROOT))


def main() -> None:
    parser = argparse.ArgumentParser(prog="python -m dev.mutate", description=__doc__)
    parser.add_argument("--only", default="", metavar="PATH", help="mutate this file or folder")
    parser.add_argument("--each", default=1, type=int, help="make so many mutants of a function")
    parser.add_argument("--minutes", default=float("inf"), type=float, help="stop after this time")
    parser.add_argument("--seconds", default=60, type=float, help="of tests for each mutant")
    mutate(**vars(parser.parse_args()))


if __name__ == "__main__":
    try:
        main()
    except CommandError as error:
        sys.exit(str(error))
    except KeyboardInterrupt:
        sys.exit("Interrupted. Run the command again to go on.")
