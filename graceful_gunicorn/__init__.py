"""A Gunicorn worker that loses no request and limits slow clients. See README.md.

Each public name is imported when it is first used. The reason is that some libraries read the
environment when they are imported: Gunicorn reads WEB_CONCURRENCY, and prometheus_client reads
PROMETHEUS_MULTIPROC_DIR. This way both can be set after `graceful_gunicorn` has been imported.
"""

from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from graceful_gunicorn.arbiter import forget_worker, guard_master, prepare_worker
    from graceful_gunicorn.bind_check import bind_error
    from graceful_gunicorn.collectors import registry_of_all_workers
    from graceful_gunicorn.config import EarlyError, ServerConfig
    from graceful_gunicorn.cores import available_cores
    from graceful_gunicorn.encoded_head import (
        ENCODED_HEAD,
        EncodedHead,
        decode_head,
        encode_head,
    )
    from graceful_gunicorn.multiprocess_metrics import begin_metrics, end_metrics
    from graceful_gunicorn.protocol import protocol_class
    from graceful_gunicorn.worker import Worker

_MODULES = {
    "ENCODED_HEAD": "encoded_head",
    "EarlyError": "config",
    "EncodedHead": "encoded_head",
    "ServerConfig": "config",
    "Worker": "worker",
    "available_cores": "cores",
    "begin_metrics": "multiprocess_metrics",
    "bind_error": "bind_check",
    "decode_head": "encoded_head",
    "encode_head": "encoded_head",
    "end_metrics": "multiprocess_metrics",
    "forget_worker": "arbiter",
    "guard_master": "arbiter",
    "prepare_worker": "arbiter",
    "protocol_class": "protocol",
    "registry_of_all_workers": "collectors",
}

__all__ = [
    "ENCODED_HEAD",
    "EarlyError",
    "EncodedHead",
    "ServerConfig",
    "Worker",
    "available_cores",
    "begin_metrics",
    "bind_error",
    "decode_head",
    "encode_head",
    "end_metrics",
    "forget_worker",
    "guard_master",
    "prepare_worker",
    "protocol_class",
    "registry_of_all_workers",
]


def __getattr__(name: str) -> Any:
    if name not in _MODULES:
        raise AttributeError(name)
    return getattr(import_module(f"graceful_gunicorn.{_MODULES[name]}"), name)
