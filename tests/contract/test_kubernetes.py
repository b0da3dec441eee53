"""The Kubernetes manifests as kustomize builds them: the ways in, and what pods may connect to."""

import re
import shutil
import subprocess
from collections.abc import Iterator
from pathlib import Path

import pytest
import yaml

from tests.contract.deployment import (
    BASE,
    DEPLOY,
    KINDS,
    PRODUCTION,
    PROJECT,
    Yaml,
    documents,
    environment,
    kustomization,
    manifests,
    service,
)

COMPONENTS = DEPLOY / "kubernetes" / "components"
WAYS_IN = [COMPONENTS / "gateway", COMPONENTS / "ingress"]
VALKEYS = COMPONENTS / "valkey"
PAGE = PROJECT / "docs" / "deployment" / "kubernetes.md"
EVERY_POD = {"app.kubernetes.io/part-of": kustomization(BASE)["labels"][0]["pairs"].popitem()[1]}
SERVICE_POD = {"app.kubernetes.io/name": "app"}


def objects(folder: Path) -> list[Yaml]:
    """Return the objects that a folder lists as its resources, without those of other folders."""
    files = [folder / name for name in kustomization(folder)["resources"]]
    return [entry for file in files if file.is_file() for entry in documents(file)]


def policies(folder: Path) -> dict[str, Yaml]:
    found = (entry for entry in objects(folder) if entry["kind"] == "NetworkPolicy")
    return {entry["metadata"]["name"]: entry["spec"] for entry in found}


def of_kind(folder: Path, kind: str) -> dict[str, Yaml]:
    found = (entry for entry in objects(folder) if entry["kind"] == kind)
    return {entry["metadata"]["name"]: entry for entry in found}


def test_everything_is_forbidden_and_each_other_policy_allows_one_thing() -> None:
    found = policies(BASE)
    forbidden = found.pop("deny-all")
    assert forbidden == {
        "podSelector": {"matchLabels": EVERY_POD},
        "policyTypes": ["Ingress", "Egress"],
    }
    assert all(name.startswith("allow-") for name in found)
    for name, spec in found.items():
        [direction] = spec["policyTypes"]
        [rule] = spec[direction.lower()]
        assert rule["ports"], name
    egress = {
        name: [port["port"] for port in spec["egress"][0]["ports"]]
        for name, spec in found.items()
        if "egress" in spec
    }
    assert egress == {
        "allow-dns": [53, 53],
        "allow-postgresql": [5432],
        "allow-valkey": [6379],
    }


@pytest.mark.parametrize("component", WAYS_IN, ids=lambda path: path.name)
def test_only_the_controller_reaches_the_service(component: Path) -> None:
    """SERVER_TRUSTED_PROXIES is a number, so anybody else could choose their address."""
    [(name, spec)] = policies(component).items()
    assert name == "allow-clients"
    assert spec["podSelector"] == {"matchLabels": SERVICE_POD}
    assert spec["policyTypes"] == ["Ingress"]
    [rule] = spec["ingress"]
    [source] = rule["from"]
    assert source["namespaceSelector"]["matchLabels"].keys() == {"kubernetes.io/metadata.name"}
    assert rule["ports"] == [{"port": "http"}]


def test_the_gateway_removes_upgrade_and_sends_requests_to_the_service() -> None:
    folder = DEPLOY / "kubernetes" / "components" / "gateway"
    [gateway] = of_kind(folder, "Gateway").values()
    listeners = {entry["name"]: entry for entry in gateway["spec"]["listeners"]}
    routes = of_kind(folder, "HTTPRoute")
    for route in routes.values():
        [parent] = route["spec"]["parentRefs"]
        assert parent["name"] == gateway["metadata"]["name"]
        assert parent["sectionName"] in listeners
    [rule] = routes["app"]["spec"]["rules"]
    assert {"remove": ["Upgrade"]} in [
        entry.get("requestHeaderModifier") for entry in rule["filters"]
    ]
    [port] = manifests()["Service"]["spec"]["ports"]
    assert rule["backendRefs"] == [{"name": "app", "port": port["port"]}]
    [redirect] = routes["redirect-to-https"]["spec"]["rules"]
    assert redirect["filters"][0]["requestRedirect"]["scheme"] == "https"


def test_the_ingress_removes_upgrade_and_sends_requests_to_the_service() -> None:
    folder = DEPLOY / "kubernetes" / "components" / "ingress"
    [ingress] = of_kind(folder, "Ingress").values()
    [middleware] = of_kind(folder, "Middleware").values()
    assert middleware["spec"]["headers"]["customRequestHeaders"] == {"Upgrade": ""}
    namespace = kustomization(PRODUCTION)["namespace"]
    annotations = ingress["metadata"]["annotations"]
    assert annotations["traefik.ingress.kubernetes.io/router.middlewares"] == (
        f"{namespace}-{middleware['metadata']['name']}@kubernetescrd"
    )
    [rule] = ingress["spec"]["rules"]
    assert ingress["spec"]["tls"][0]["hosts"] == [rule["host"]]
    [path] = rule["http"]["paths"]
    [port] = manifests()["Service"]["spec"]["ports"]
    assert path["backend"]["service"] == {"name": "app", "port": {"name": port["name"]}}


@pytest.mark.parametrize("component", WAYS_IN, ids=lambda path: path.name)
@pytest.mark.parametrize("more", [[], [VALKEYS]], ids=["", "valkey"])
def test_kustomize_builds_the_overlay_with_each_way_in(
    component: Path, more: list[Path], tmp_path: Path
) -> None:
    if shutil.which("kubectl") is None:
        pytest.skip("kubectl is not installed")
    copy = tmp_path / "kubernetes"
    shutil.copytree(DEPLOY / "kubernetes", copy)
    overlay = copy / "overlays" / "production"
    file = overlay / "kustomization.yaml"
    content = yaml.safe_load(file.read_text(encoding="utf-8"))
    content["components"] = [f"../../components/{one.name}" for one in (component, *more)]
    # The examples of the page are further policies.
    examples = [block for block in yaml_blocks() if block.get("kind") == "NetworkPolicy"]
    for example in examples:
        name = f"{example['metadata']['name']}.yaml"
        (overlay / name).write_text(yaml.safe_dump(example), encoding="utf-8")
        content["resources"].append(name)
    file.write_text(yaml.safe_dump(content), encoding="utf-8")
    built = subprocess.run(
        ["kubectl", "kustomize", str(overlay)],
        capture_output=True,
        encoding="utf-8",
        timeout=60,
        check=False,
    )
    assert built.returncode == 0, built.stderr
    found = list(yaml.safe_load_all(built.stdout))
    namespaces = {entry["metadata"]["namespace"] for entry in found}
    assert namespaces == {kustomization(PRODUCTION)["namespace"]}
    names = {entry["metadata"]["name"] for entry in found if entry["kind"] == "NetworkPolicy"}
    expected = [policies(folder).keys() for folder in (BASE, component, *more)]
    assert names == {"allow-traces", "allow-storage"}.union(*expected)
    pods = [entry["spec"]["template"] for entry in found if entry["kind"] in ("Deployment", "Job")]
    assert len(pods) == 3 + 2 * len(more)
    for pod in pods:
        assert EVERY_POD.items() <= pod["metadata"]["labels"].items()
        assert pod["spec"]["containers"][0]["image"] != "app"


@pytest.mark.parametrize("name", ["valkey", "valkey-limits"])
def test_a_valkey_is_configured_as_in_compose(name: str) -> None:
    pod = of_kind(VALKEYS, "Deployment")[name]["spec"]["template"]
    [container] = pod["spec"]["containers"]
    assert container["args"] == service(name)["command"]
    assert container["image"] == service(name)["image"]
    [most] = re.findall(r"(\d+)mb", " ".join(container["args"]))
    assert int(container["resources"]["limits"]["memory"].removesuffix("Mi")) >= 2 * int(most)
    [port] = of_kind(VALKEYS, "Service")[name]["spec"]["ports"]
    assert of_kind(VALKEYS, "Service")[name]["spec"]["selector"] == pod["metadata"]["labels"]
    setting = {"valkey": "VALKEY_URL", "valkey-limits": "RATE_LIMITS_URL"}[name]
    url = environment("compose")[setting]
    assert url == f"redis://{name}:{port['port']}/0"
    assert f"| `{setting.lower()}` | `{url}` |" in PAGE.read_text(encoding="utf-8")


def test_only_the_pods_of_the_service_reach_its_valkeys() -> None:
    [(name, spec)] = policies(VALKEYS).items()
    assert name == "allow-valkey-clients"
    [chosen] = spec["podSelector"]["matchExpressions"]
    assert set(chosen["values"]) == of_kind(VALKEYS, "Deployment").keys()
    [rule] = spec["ingress"]
    [source] = rule["from"]
    [clients] = source["podSelector"]["matchExpressions"]
    service_pods = [manifests()[kind]["spec"]["template"]["metadata"]["labels"] for kind in KINDS]
    assert {labels["app.kubernetes.io/name"] for labels in service_pods} == set(clients["values"])


def yaml_blocks() -> Iterator[Yaml]:
    """Yield the YAML examples of the page."""
    text = PAGE.read_text(encoding="utf-8")
    for block in re.findall(r"```yaml\n(.*?)```", text, re.DOTALL):
        yield yaml.safe_load(block)


def test_the_page_names_every_policy() -> None:
    text = PAGE.read_text(encoding="utf-8")
    for folder in (BASE, *WAYS_IN, VALKEYS):
        for name in policies(folder):
            assert name == "deny-all" or f"`{name}`" in text


def test_the_values_to_change_are_marked() -> None:
    lines = [
        line
        for path in (DEPLOY / "kubernetes").rglob("*.yaml")
        for line in path.read_text(encoding="utf-8").splitlines()
        if re.search(r"example\.com|newTag|- ?components|^components", line)
    ]
    unmarked = [line for line in lines if "# yours" not in line and "hostname: api" not in line]
    assert not unmarked
