"""Runs the job worker once for each function that is named, and sends it SIGTERM at its first call.

The worker is forked from this process, so that its modules are imported once for all runs. Prints
the status and the output of each run as JSON.
"""

import gc
import json
import os
import runpy
import signal
import sys
import tempfile
from types import FrameType
from typing import IO

SECONDS = 60  # SIGALRM then kills a worker that did not end


def run_worker(function: str) -> None:
    def send_at_the_call(frame: FrameType, event: str, _: object) -> None:
        name = frame.f_code.co_qualname
        # The end is compared first, because this runs at every call.
        is_similar = event == "call" and function.endswith(name)
        if is_similar and function == f"{frame.f_globals.get('__name__')}.{name}":
            sys.setprofile(None)
            os.kill(os.getpid(), signal.SIGTERM)

    signal.alarm(SECONDS)
    sys.setprofile(send_at_the_call)
    runpy.run_module("app.worker", run_name="__main__", alter_sys=True)


def redirect_output(output: IO[str]) -> None:
    for number in (1, 2):
        os.dup2(output.fileno(), number)


def main(functions: list[str]) -> None:
    import app.worker  # noqa: F401
    from app import features
    from app.infra.jobs.registry import load_jobs

    load_jobs(features)
    del sys.modules["app.worker"]  # it runs again, as `__main__`
    gc.freeze()  # otherwise each worker that exits looks through the objects of all modules
    runs: dict[str, tuple[int, str]] = {}
    for function in functions:
        with tempfile.TemporaryFile("w+", encoding="utf-8") as output:
            worker = os.fork()
            if worker == 0:
                redirect_output(output)
                run_worker(function)
                return
            _, status = os.waitpid(worker, 0)
            output.seek(0)
            runs[function] = (os.waitstatus_to_exitcode(status), output.read())
    json.dump(runs, sys.stdout)


main(sys.argv[1:])
