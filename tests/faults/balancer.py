"""HAProxy and nginx in front of several instances of the service.

`balancing` never retries a request, because a retry could hide that an instance has lost it.
"""

import re
import shutil
import socket
import subprocess
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path

from dev.address import Address
from tests.faults.load import free_port

PLACES = "/usr/sbin:/usr/bin:/usr/local/sbin:/usr/local/bin"
HAPROXY = shutil.which("haproxy", path=PLACES)
NGINX = shutil.which("nginx", path=PLACES)
DEPLOYED = Path(__file__).parents[2] / "deploy"
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
    """Forward requests to any instance that is ready."""
    assert HAPROXY is not None
    front = Address("127.0.0.1", free_port())
    servers = [
        f"    server instance-{number} {instance.host}:{instance.port}\n"
        for number, instance in enumerate(instances)
    ]
    configuration = folder / "haproxy.cfg"
    configuration.write_text(CONFIGURATION.format(front=front) + "".join(servers), encoding="utf-8")
    process = subprocess.Popen([HAPROXY, "-db", "-f", str(configuration)])
    try:
        yield front
    finally:
        process.terminate()
        process.wait()


@contextmanager
def deployed_nginx(instances: Sequence[Address], folder: Path) -> Iterator[Address]:
    """Run nginx with the configuration in `deploy`, for these instances."""
    assert NGINX is not None
    front = Address("127.0.0.1", free_port())
    text = (DEPLOYED / "nginx/nginx.conf").read_text(encoding="utf-8")
    servers = "\n".join(f"server {instance.host}:{instance.port} \\1;" for instance in instances)
    text, found = re.subn(r"server app:8000 (.*);", servers, text)
    assert found == 1
    text = text.replace("listen 8080;", f"listen {front.host}:{front.port};")
    text = text.replace("/tmp/", f"{folder}/")
    configuration = folder / "nginx.conf"
    configuration.write_text(text, encoding="utf-8")
    yield from _running([NGINX, "-c", str(configuration), "-g", "daemon off;"], front)


@contextmanager
def deployed_haproxy(instances: Sequence[Address], folder: Path) -> Iterator[Address]:
    """Run HAProxy with the configuration in `deploy`, for these instances."""
    assert HAPROXY is not None
    front, health = (Address("127.0.0.1", free_port()) for _ in range(2))
    text = (DEPLOYED / "haproxy/haproxy.cfg").read_text(encoding="utf-8")
    servers = "\n".join(
        f"    server app{number} {instance.host}:{instance.port} check"
        for number, instance in enumerate(instances)
    )
    text, found = re.subn(r" *server-template app .*", servers, text)
    assert found == 1
    text = text.replace("bind :8080", f"bind {front.host}:{front.port}")
    text = text.replace("bind 127.0.0.1:8404", f"bind {health.host}:{health.port}")
    configuration = folder / "haproxy.cfg"
    configuration.write_text(text, encoding="utf-8")
    yield from _running([HAPROXY, "-db", "-f", str(configuration)], front)


def _running(command: list[str], front: Address) -> Iterator[Address]:
    """Run a balancer, and wait until it accepts connections."""
    process = subprocess.Popen(command)
    try:
        for _ in range(100):
            with socket.socket() as probe:
                if probe.connect_ex((front.host, front.port)) == 0:
                    break
            assert process.poll() is None, command
            time.sleep(0.1)
        yield front
    finally:
        process.terminate()
        process.wait()
