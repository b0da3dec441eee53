"""Reads the files of a deployment, for the tests that compare them."""

import re
from functools import cache
from pathlib import Path
from typing import Any

import yaml

PROJECT = Path(__file__).parents[2]
DEPLOY = PROJECT / "deploy"
BASE = DEPLOY / "kubernetes" / "base"
PRODUCTION = DEPLOY / "kubernetes" / "overlays" / "production"
DEPLOYMENTS = ["compose", "base", "production"]
KINDS = ("Deployment", "worker", "Job")  # of the objects that create pods
UNITS = {"ms": 0.001, "s": 1, "m": 60, "": 1}

Yaml = dict[str, Any]


def text(path: str) -> str:
    """Return a file of the project without its comments."""
    mark = "--" if path.endswith(".sql") else "#"
    lines = (PROJECT / path).read_text(encoding="utf-8").splitlines()
    return "\n".join(line for line in lines if not line.lstrip().startswith(mark))


@cache
def compose() -> Yaml:
    """Return what docker-compose.yml defines."""
    content: Yaml = yaml.safe_load((PROJECT / "docker-compose.yml").read_text(encoding="utf-8"))
    return content


def service(name: str) -> Yaml:
    """Return one service of docker-compose.yml."""
    found: Yaml = compose()["services"][name]
    return found


@cache
def manifests() -> dict[str, Yaml]:
    """Return the objects of the Kubernetes base by kind. The pods are in `pods`.

    The Deployment of the job worker is `worker`.
    """
    objects = [
        entry for name in kustomization(BASE)["resources"] for entry in documents(BASE / name)
    ]
    return {
        "worker" if entry["metadata"]["name"] == "worker" else str(entry["kind"]): entry
        for entry in objects
    }


def documents(path: Path) -> list[Yaml]:
    """Return the documents of a YAML file."""
    return list(yaml.safe_load_all(path.read_text(encoding="utf-8")))


def kustomization(folder: Path) -> Yaml:
    """Return the kustomization of a folder."""
    [content] = documents(folder / "kustomization.yaml")
    return content


def pods() -> dict[str, Yaml]:
    """Return the pods of the base, by the object that creates them."""
    return {kind: manifests()[kind]["spec"]["template"]["spec"] for kind in KINDS}


def environment(where: str) -> dict[str, str]:
    """Return the settings of the service in a deployment. `${NAME:-value}` is `value`."""
    if where == "compose":
        return {name: default(value) for name, value in service("app")["environment"].items()}
    literals = list(kustomization(BASE)["configMapGenerator"][0]["literals"])
    if where == "production":
        literals += kustomization(PRODUCTION)["configMapGenerator"][0]["literals"]
    return dict(literal.split("=", 1) for literal in literals)


def container() -> Yaml:
    """Return the container of the Deployment."""
    [found] = pods()["Deployment"]["containers"]
    return dict(found)


def default(value: str) -> str:
    """Return the value that Compose uses when the variable is not set."""
    return re.sub(r"\$\{\w+:-([^}]*)\}", r"\1", value)


def seconds(duration: str) -> float:
    """Return the seconds of `500ms`, `30s` or `1m`."""
    found = re.fullmatch(r"([\d.]+)(ms|s|m|)", duration)
    assert found, duration
    return float(found[1]) * UNITS[found[2]]


def haproxy(name: str) -> float:
    """Return a duration of HAProxy's configuration, in seconds."""
    return _only(rf"\b{name} +([\d.]+\w*)", text("deploy/haproxy/haproxy.cfg"))


def nginx(name: str, block: str = "server") -> float:
    """Return a duration of a block of nginx's configuration, in seconds."""
    found = re.search(
        rf"^    {block}\b.*?^    }}", text("deploy/nginx/nginx.conf"), re.MULTILINE | re.DOTALL
    )
    assert found
    return _only(rf"\b{name} ([\d.]+\w*);", found[0])


def _only(pattern: str, content: str) -> float:
    [value] = re.findall(pattern, content)
    return seconds(value)


def http_paths() -> set[str]:
    """Return the paths of all health checks, wherever they are configured."""
    files = ["Dockerfile", "deploy/haproxy/haproxy.cfg", "deploy/nginx/docker-compose.yml"]
    paths = {
        path for file in files for path in re.findall(r"/(?:livez|readyz|health\w*)", text(file))
    }
    probes = (container()[f"{kind}Probe"] for kind in ("startup", "liveness", "readiness"))
    return (paths - {"/healthz"}) | {probe["httpGet"]["path"] for probe in probes}
