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

from ferry.app.api.metrics import TABLE
from ferry.worker.turns.turn import STATES

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
    for target in panel.get("targets", [])
]


@pytest.mark.parametrize("expression", EXPRESSIONS)
def test_an_expression_is_promql_over_metrics_that_are_documented(expression):
    promql_parser.parse(expression)
    documented = (OPERATIONS.parent / "reference" / "http.md").read_text()
    for name in re.findall(r"\bferry_\w+", expression):
        assert f"`{re.sub(r'_(bucket|count|sum)$', '', name)}`" in documented


def test_a_scrape_has_every_metric_of_the_table(client, worker, remote):
    api = client()
    api.put("/api/sheets/people/records/jane", json={"slug": "jane", "name": "Jane"})
    text = api.get("/metrics").text
    families = {
        family.name for family in text_string_to_metric_families(text) if family.name.startswith("ferry_")
    }
    # A counter without its _total is the family's name.
    assert families == {row.name.removesuffix("_total") for row in TABLE}


def test_the_metrics_are_documented_as_the_table_has_them():
    page = (OPERATIONS.parent / "reference" / "http.md").read_text()
    documented = re.findall(r"^\| `(ferry_\w+)` \| (\w+) \| ?(.*?) ?\| (.*) \|$", page, re.MULTILINE)

    found = [(name, kind, re.findall(r"`\w+`", labels), said) for name, kind, labels, said in documented]
    assert found == [(row.name, row.type, [f"`{each}`" for each in row.labels], row.help) for row in TABLE]


@pytest.mark.parametrize("rule", RULES, ids=[rule["alert"] for rule in RULES])
def test_an_alert_says_what_to_do(rule):
    assert rule["labels"]["severity"] in ("critical", "warning")
    assert rule["annotations"]["summary"]
    runbook = rule["annotations"]["runbook"]
    for path in re.findall(r"docs/\S+\.md", runbook):
        assert (OPERATIONS.parents[1] / path).exists()
    assert f"`{rule['alert']}`" in (OPERATIONS / "monitoring.md").read_text()


def test_the_dashboard_shows_the_repositories_that_are_chosen():
    """
    In every panel, and each in rows of its own.
    """
    names = [variable["name"] for variable in DASHBOARD["templating"]["list"]]
    assert names == ["datasource", "repository"]
    assert [panel["repeat"] for panel in DASHBOARD["panels"] if "repeat" in panel] == ["repository"]
    for panel in DASHBOARD["panels"]:
        for target in panel.get("targets", []):
            selectors = re.findall(r"ferry_[a-z_]+(\{.*?\})?", target["expr"])
            assert selectors, panel["title"]
            assert all('repository=~"$repository"' in each for each in selectors), panel["title"]


def _words(mappings):
    return {value: option["text"] for mapping in mappings for value, option in mapping["options"].items()}


def test_the_dashboard_has_every_state_in_words():
    table = next(panel for panel in DASHBOARD["panels"] if panel["type"] == "table")
    (of_the_table,) = (
        {each["id"]: each["value"] for each in column["properties"]}
        for column in table["fieldConfig"]["overrides"]
        if column["matcher"]["options"] == "state"
    )
    timeline = next(panel for panel in DASHBOARD["panels"] if panel["type"] == "state-timeline")
    numbers = re.findall(r'state="(\w+)", .*?\} \* (\d)', timeline["targets"][0]["expr"])

    words = _words(of_the_table["mappings"])
    assert set(words) == set(STATES)
    assert all(text.startswith(state) for state, text in words.items())
    in_time = _words(timeline["fieldConfig"]["defaults"]["mappings"])
    assert {state: in_time[number] for state, number in numbers} == words


def test_the_dashboards_panels_lie_beside_each_other():
    taken = set()
    for panel in DASHBOARD["panels"]:
        at = panel["gridPos"]
        cells = {(x, y) for x in range(at["x"], at["x"] + at["w"]) for y in range(at["y"], at["y"] + at["h"])}
        assert not cells & taken, panel["title"]
        assert at["x"] + at["w"] <= 24
        taken |= cells
