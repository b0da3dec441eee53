"""Names in the files of the deployment agree, and so do the rules of both proxies."""

import json
import re

from tests.contract.deployment import (
    BASE,
    DEPLOY,
    PROJECT,
    compose,
    container,
    default,
    documents,
    environment,
    kustomization,
    manifests,
    pods,
    service,
    text,
)


def test_proxies_replace_forwarded_headers_of_clients() -> None:
    haproxy_rules, nginx_rules = text("deploy/haproxy/haproxy.cfg"), text("deploy/nginx/nginx.conf")
    assert "set-header X-Forwarded-For %[src]" in haproxy_rules
    assert "X-Forwarded-For $remote_addr;" in nginx_rules
    assert "X-Forwarded-Proto $scheme;" in nginx_rules
    removed = set(re.findall(r"del-header (\S+)", haproxy_rules))
    assert removed == set(re.findall(r'proxy_set_header (\S+) "";', nginx_rules)) - {"Connection"}
    assert {"Forwarded", "X-Forwarded-Host", "X-Real-IP"} <= removed


def test_proxies_retry_only_safe_requests() -> None:
    rules = text("deploy/haproxy/haproxy.cfg")
    [retried] = re.findall(r"retry-on (.+)", rules)
    assert set(retried.split()) <= {"conn-failure", "empty-response"}
    assert "disable-l7-retry unless { method GET HEAD OPTIONS }" in rules
    assert "non_idempotent" not in text("deploy/nginx/nginx.conf")


def test_mounted_files_exist() -> None:
    overlays = [str(path.relative_to(PROJECT)) for path in DEPLOY.glob("*/docker-compose.yml")]
    assert len(overlays) == 2
    for file in ("docker-compose.yml", *overlays):
        for path in re.findall(r"- (\./[^:]+):", text(file)):
            assert (PROJECT / path).exists(), path
    used = {
        volume.split(":")[0]
        for values in compose()["services"].values()
        for volume in values.get("volumes", [])
        if not volume.startswith(".")
    }
    assert used == compose()["volumes"].keys()


def test_prometheus_scrapes_the_metrics_port() -> None:
    [configuration] = documents(DEPLOY / "prometheus/prometheus.yml")
    [job] = configuration["scrape_configs"]
    [names] = job["dns_sd_configs"]
    assert set(names["names"]) <= compose()["services"].keys()
    assert str(names["port"]) == environment("compose")["METRICS_PORT"]
    for rules in configuration["rule_files"]:
        assert (DEPLOY / "prometheus" / rules).exists()
    template = manifests()["Deployment"]["spec"]["template"]["metadata"]["annotations"]
    ports = {port["name"]: str(port["containerPort"]) for port in container()["ports"]}
    assert template["prometheus.io/port"] == ports["metrics"] == environment("base")["METRICS_PORT"]


def test_grafana_finds_prometheus_and_the_dashboard() -> None:
    folder = DEPLOY / "grafana/provisioning"
    [source] = documents(folder / "datasources/prometheus.yml")[0]["datasources"]
    [provider] = documents(folder / "dashboards/service.yml")[0]["providers"]
    assert source["url"] == "http://prometheus:9090"
    assert default(service("prometheus")["ports"][0]).endswith(":9090")
    dashboard = f"{provider['options']['path']}/service.json"
    assert any(f":{dashboard}:ro" in volume for volume in service("grafana")["volumes"])
    home = service("grafana")["environment"]["GF_DASHBOARDS_DEFAULT_HOME_DASHBOARD_PATH"]
    assert home == dashboard
    [variable] = json.loads((DEPLOY / "grafana/service.json").read_text(encoding="utf-8"))[
        "templating"
    ]["list"]
    assert variable["query"] == source["type"]


def test_kubernetes_selects_the_pods_that_it_makes() -> None:
    listed = set(kustomization(BASE)["resources"])
    assert listed == {path.name for path in BASE.glob("*.yaml")} - {"kustomization.yaml"}
    labels = manifests()["Deployment"]["spec"]["template"]["metadata"]["labels"]
    assert manifests()["Deployment"]["spec"]["selector"]["matchLabels"] == labels
    assert manifests()["Service"]["spec"]["selector"] == labels
    assert manifests()["PodDisruptionBudget"]["spec"]["selector"]["matchLabels"] == labels
    for spread in pods()["Deployment"]["topologySpreadConstraints"]:
        assert spread["labelSelector"]["matchLabels"] == labels
    target = manifests()["HorizontalPodAutoscaler"]["spec"]["scaleTargetRef"]
    assert target["name"] == manifests()["Deployment"]["metadata"]["name"]
    assert manifests()["Service"]["spec"]["ports"][0]["targetPort"] in {
        port["name"] for port in container()["ports"]
    }
