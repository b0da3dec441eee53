"""HAProxy before some instances of the service, asking each whether it is ready.

It tries nothing again, as it otherwise would: it could hide what an instance loses.
"""

import shutil
import subprocess
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path

from dev.address import Address
from tests.faults.load import free_port

HAPROXY = shutil.which("haproxy", path="/usr/sbin:/usr/bin:/usr/local/sbin:/usr/local/bin")
CONFIGURATION = """
defaults
    mode http
    retries 0
    timeout connect 2s
    timeout client 60s
    timeout server 60s
    timeout check 2s
frontend public
    bind {front.host}:{front.port}
    default_backend instances
backend instances
    option httpchk GET /readyz
    default-server check inter 500ms fall 2 rise 1
"""


@contextmanager
def balancing(instances: Sequence[Address], folder: Path) -> Iterator[Address]:
    """Send what comes to an address to whichever instance is ready."""
    assert HAPROXY is not None
    front = Address("127.0.0.1", free_port())
    servers = [
        f"    server instance-{number} {instance.host}:{instance.port}\n"
        for number, instance in enumerate(instances)
    ]
    configuration = folder / "haproxy.cfg"
    configuration.write_text(CONFIGURATION.format(front=front) + "".join(servers))
    process = subprocess.Popen([HAPROXY, "-db", "-f", str(configuration)])
    try:
        yield front
    finally:
        process.terminate()
        process.wait()
