"""Each alert has a runbook, which names panels, settings and log lines that exist."""

import json
import re
from pathlib import Path

import yaml

from tests.contract.test_documents import anchors
from tests.contract.test_guide import source

PROJECT = Path(__file__).parents[2]
RUNBOOKS = PROJECT / "docs" / "operations.md"
GROUPS = yaml.safe_load(
    (PROJECT / "deploy" / "prometheus" / "alerts.yml").read_text(encoding="utf-8")
)["groups"]
ALERTS = [rule for group in GROUPS for rule in group["rules"]]
GENERAL = ["First, for every alert"]


def sections() -> dict[str, str]:
    """Return the sections of the page by their headings."""
    parts = re.split(r"^## (.+)$", RUNBOOKS.read_text(encoding="utf-8"), flags=re.MULTILINE)
    return dict(zip(parts[1::2], parts[2::2], strict=True))


def test_there_is_a_section_for_each_alert_and_no_other() -> None:
    assert list(sections()) == [*GENERAL, *(alert["alert"] for alert in ALERTS)]


def test_the_table_lists_all_alerts_with_their_severity() -> None:
    rows = re.findall(
        r"^\| \[(\w+)\]\(#\w+\) \| (\w+) \| .+ \|$",
        RUNBOOKS.read_text(encoding="utf-8"),
        re.MULTILINE,
    )
    assert rows == [(alert["alert"], alert["labels"]["severity"]) for alert in ALERTS]


def test_an_alert_leads_to_its_section() -> None:
    for alert in ALERTS:
        page, _, anchor = alert["annotations"]["runbook"].partition("#")
        assert PROJECT / page == RUNBOOKS
        assert anchor == alert["alert"].lower()
        assert anchor in anchors(RUNBOOKS)


def test_a_section_names_panels_and_log_lines_that_exist() -> None:
    dashboard = json.loads((PROJECT / "deploy/grafana/service.json").read_text(encoding="utf-8"))
    titles = {panel["title"] for panel in dashboard["panels"]}
    messages = re.sub(r'"\s*f?"', "", source())  # one literal in several lines is one text
    for alert in ALERTS:
        text = sections()[alert["alert"]]
        for title in re.findall(r"\*\*(.+?)\*\*", text):
            assert title in titles, title
        for lines in re.findall(r"^\| log lines.* with (.+?) \|", text, re.MULTILINE):
            for message in re.findall(r"`([^`]+)`", lines):
                assert message.split(":")[0].strip('"') in messages, message
