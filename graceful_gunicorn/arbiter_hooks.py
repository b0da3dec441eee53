"""The functions that Gunicorn's configuration file calls in Gunicorn's server hooks."""

from typing import TYPE_CHECKING

from gunicorn.arbiter import Arbiter

from graceful_gunicorn.arbiter_reload import check_before_reload
from graceful_gunicorn.arbiter_shutdown import announce_instance_shutdown, halt_only_once
from graceful_gunicorn.config import ServerConfig
from graceful_gunicorn.multiprocess_metrics import remove_live_gauges
from graceful_gunicorn.shared_state import SHARED_STATE
from graceful_gunicorn.worker_starter import WorkerStarter

if TYPE_CHECKING:  # it imports prometheus_client, which must not happen before `begin_metrics`
    from graceful_gunicorn.worker import Worker


def guard_master(server: Arbiter, config: ServerConfig) -> None:
    """Keep a bad reload or a worker that cannot boot from ending the instance.

    Call this in `when_ready`. It also makes the master tell the workers whether the instance shuts
    down or they alone are replaced.
    """
    announce_instance_shutdown(server)
    check_before_reload(server, config.check_command)
    halt_only_once(server)
    server.worker_starter = WorkerStarter(server)


def prepare_worker(worker: "Worker", config: ServerConfig) -> None:
    """Give a worker its configuration and its slot in the shared state. Call this in `pre_fork`."""
    worker.worker_state, worker.server_config = SHARED_STATE.allocate_worker(), config


def forget_worker(server: Arbiter, worker: "Worker") -> None:
    """Release the slot of a worker that has exited. Call this in `child_exit`."""
    remove_live_gauges(worker.worker_state.number)
    server.worker_starter.note_exit(worker.worker_state)
    worker.worker_state.release()
