"""
The alert rules and the dashboard ask for what there is.
"""

from __future__ import annotations

import json
import re
from pathlib import Path

import promql_parser
import pytest
import yaml
from prometheus_client.parser import text_string_to_metric_families

OPERATIONS = Path(__file__).resolve().parents[2] / "docs" / "operations"
RULES = [
    rule
    for group in yaml.safe_load((OPERATIONS / "prometheus-rules.yml").read_text())["groups"]
    for rule in group["rules"]
]
DASHBOARD = json.loads((OPERATIONS / "grafana-dashboard.json").read_text())
EXPRESSIONS = [rule["expr"] for rule in RULES] + [
    target["expr"].replace("$__rate_interval", "5m")
    for panel in DASHBOARD["panels"]
    for target in panel["targets"]
]


@pytest.mark.parametrize("expression", EXPRESSIONS)
def test_an_expression_is_promql_over_metrics_that_are_documented(expression):
    promql_parser.parse(expression)
    documented = (OPERATIONS.parent / "reference" / "http.md").read_text()
    for name in re.findall(r"\bferry_\w+", expression):
        assert f"`{re.sub(r'_(bucket|count|sum)$', '', name)}`" in documented


def test_every_metric_that_is_documented_is_there(client, worker, remote):
    api = client()
    api.put("/api/sheets/people/records/jane", json={"slug": "jane", "name": "Jane"})
    text = api.get("/metrics").text
    families = {
        family.name for family in text_string_to_metric_families(text) if family.name.startswith("ferry_")
    }
    documented = set(
        re.findall(
            r"^\| `(ferry_\w+)` \|", (OPERATIONS.parent / "reference" / "http.md").read_text(), re.MULTILINE
        )
    )
    # A counter without its _total is the family's name; those that have not happened yet are absent.
    absent = {"ferry_enqueue_failures_total", "ferry_last_verified_timestamp_seconds"}
    names = {name.removesuffix("_total") for name in documented - absent}
    assert names <= families | {"ferry_last_maintenance_timestamp_seconds"}, names - families
    assert families <= {name.removesuffix("_total") for name in documented}


@pytest.mark.parametrize("rule", RULES, ids=[rule["alert"] for rule in RULES])
def test_an_alert_says_what_to_do(rule):
    assert rule["labels"]["severity"] in ("critical", "warning")
    assert rule["annotations"]["summary"]
    runbook = rule["annotations"]["runbook"]
    for path in re.findall(r"docs/\S+\.md", runbook):
        assert (OPERATIONS.parents[1] / path).exists()
    assert f"`{rule['alert']}`" in (OPERATIONS / "monitoring.md").read_text()


def test_the_dashboards_panels_lie_beside_each_other():
    taken = set()
    for panel in DASHBOARD["panels"]:
        at = panel["gridPos"]
        cells = {(x, y) for x in range(at["x"], at["x"] + at["w"]) for y in range(at["y"], at["y"] + at["h"])}
        assert not cells & taken, panel["title"]
        assert at["x"] + at["w"] <= 24
        taken |= cells
