"""
The alert rules, by Prometheus itself: each fires in time for the repository in trouble, and for no other.
"""

from __future__ import annotations

import contextlib
import json
import os
import subprocess
import tarfile
import threading
import urllib.request
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pytest
import yaml
from werkzeug.serving import make_server

from ferry.app import create_app
from ferry.app.dev.stack import free_port
from ferry.worker.files.places import remotes_directory
from ferry.worker.ledger.ledger import Ledger
from tests.deployment.helm import CHART, ROOT
from tests.needs import need
from tests.parts import wait_until

RULES = ROOT / "docs" / "operations" / "prometheus-rules.yml"
BY_NAME = {
    rule["alert"]: rule for group in yaml.safe_load(RULES.read_text())["groups"] for rule in group["rules"]
}
# As a Prometheus in a cluster has them: two releases of the chart in one namespace.
IN_TROUBLE, CALM = (
    {
        "namespace": "data",
        "job": f"{release}-ferry",
        "service": f"{release}-ferry",
        "repository": f"git.example.org/{release}/data",
    }
    for release in ("town", "village")
)
_OF_AN_ALERT = ("namespace", "job", "repository")

Series = dict[str, str]


@dataclass(frozen=True)
class Case:
    """
    One alert between its two moments.

    Attributes:
        alert: Its name.
        trouble: What the repository in trouble reports, a value each minute, as promtool writes it.
        calm: What another repository reports meanwhile.
        silent: When it does not fire yet.
        fires: When it does, for the repository in trouble alone.
        says: Its summary then, after the repository's name.
        labels: Its labels beside the repository's and the rule's.
    """

    alert: str
    trouble: Series
    calm: Series
    silent: str
    fires: str
    says: str
    labels: dict[str, str] = field(default_factory=dict)

    def group(self) -> dict[str, Any]:
        """
        Return the case as promtool's test file has it.
        """
        rule = BY_NAME[self.alert]
        labels = {name: IN_TROUBLE[name] for name in _OF_AN_ALERT} | self.labels | rule["labels"]
        summary = f"{IN_TROUBLE['repository']}: {self.says}"
        expected = {"exp_labels": labels, "exp_annotations": rule["annotations"] | {"summary": summary}}
        return {
            "name": self.alert,
            "interval": "1m",
            "input_series": [*_series(IN_TROUBLE, self.trouble), *_series(CALM, self.calm)],
            "alert_rule_test": [
                {"eval_time": self.silent, "alertname": self.alert, "exp_alerts": []},
                {"eval_time": self.fires, "alertname": self.alert, "exp_alerts": [expected]},
            ],
        }


def _series(target: dict[str, str], reported: Series) -> list[dict[str, str]]:
    common = ", ".join(f'{name}="{value}"' for name, value in target.items())
    return [
        {
            "series": f"{name[:-1]}, {common}}}" if name.endswith("}") else f"{name}{{{common}}}",
            "values": values,
        }
        for name, values in reported.items()
    ]


ORIGIN = {"remote": "origin"}
REQUESTS = 'ferry_http_requests_total{endpoint="records.create", status='
CASES = [
    Case(
        "FerryNeedsPerson",
        {'ferry_push_needs_person{remote="origin"}': "0 1x10"},
        {'ferry_push_needs_person{remote="origin"}': "0x10", 'ferry_push_paused{remote="origin"}': "1x10"},
        silent="1m", fires="2m", says="a person is needed for origin", labels=ORIGIN,
    ),
    Case(
        "FerryHookNeedsPerson",
        {'ferry_hook_needs_person{extension="town", event="commit"}': "0 1x10"},
        {'ferry_hook_needs_person{extension="town", event="commit"}': "0x10"},
        silent="1m", fires="2m", says="a function of town after a commit fails repeatedly",
        labels={"extension": "town", "event": "commit"},
    ),
    Case(  # a remote that is paused keeps its own alert from firing, and no other's
        "FerryCommitsDoNotArrive",
        {'ferry_oldest_unpushed_age_seconds{remote="origin"}': "0+60x30",
         'ferry_oldest_unpushed_age_seconds{remote="mirror"}': "0+60x30",
         'ferry_push_paused{remote="origin"}': "0x30", 'ferry_push_paused{remote="mirror"}': "1x30"},
        {'ferry_oldest_unpushed_age_seconds{remote="origin"}': "5000x30",
         'ferry_push_paused{remote="origin"}': "1x30"},
        silent="15m", fires="16m", says="a commit has waited 16m 0s for origin", labels=ORIGIN,
    ),
    Case(  # though a retry runs now and then
        "FerryRetriesGoOn",
        {'ferry_push_failing_seconds{remote="origin"}': "0+60x60",
         'ferry_push_state{remote="origin", state="pushing"}': "0 1 0 1 0 1 0 1"},
        {'ferry_push_failing_seconds{remote="origin"}': "4000x60",
         'ferry_push_paused{remote="origin"}': "1x60"},
        silent="30m", fires="31m", says="origin has accepted no push for 31m 0s", labels=ORIGIN,
    ),
    Case(
        "FerryRemotePaused",
        {'ferry_push_paused{remote="origin"}': "1x800", 'ferry_push_paused{remote="mirror"}': "0x800"},
        {'ferry_push_paused{remote="origin"}': "1x700 0x100"},
        silent="719m", fires="720m", says="origin has been paused for half a day", labels=ORIGIN,
    ),
    Case(  # a divergence has an alert of its own
        "FerryBehind",
        {'ferry_behind_commits{remote="origin"}': "2x30", 'ferry_behind_commits{remote="mirror"}': "2x30"},
        {'ferry_behind_commits{remote="origin"}': "2x30", 'ferry_push_needs_person{remote="origin"}': "1x30"},
        silent="14m", fires="15m", says="origin has 2 commits that Ferry has not taken over", labels=ORIGIN,
    ),
    Case(  # where pushes fail, that is told
        "FerryRemoteUnseen",
        {'ferry_remote_seen_timestamp_seconds{remote="origin"}': "0x90",
         'ferry_push_failing_seconds{remote="origin"}': "0x90"},
        {'ferry_remote_seen_timestamp_seconds{remote="origin"}': "0x90",
         'ferry_push_failing_seconds{remote="origin"}': "60x90"},
        silent="60m", fires="61m", says="origin has not been seen for 1h 1m 0s", labels=ORIGIN,
    ),
    Case(
        "FerryNobodySweeps",
        {"ferry_sweep_late": "1x10"},
        {"ferry_sweep_late": "1x3 0x10"},
        silent="4m", fires="5m", says="beat, the broker or every worker is down",
    ),
    Case(
        "FerryDown",
        {'ferry_build_info{version="1"}': "1x10 stale"},
        {'ferry_build_info{version="1"}': "1x10 stale 1x2000", 'ferry_build_info{version="2"}': "_x10 1x5"},
        silent="15m", fires="16m", says="no API process answers",
    ),
    Case(  # for as long as it is down
        "FerryDown",
        {'ferry_build_info{version="1"}': "1x10 stale"},
        {'ferry_build_info{version="1"}': "1x2000"},
        silent="10m", fires="3h", says="no API process answers",
    ),
    Case(  # one in ten requests; in the other repository one in twenty-five, and checks that fail
        "FerryAnswersErrors",
        {REQUESTS + '"500"}': "0+1x20", REQUESTS + '"201"}': "0+9x20"},
        {REQUESTS + '"500"}': "0+1x20", REQUESTS + '"201"}': "0+24x20",
         'ferry_http_requests_total{endpoint="health.ready", status="503"}': "0+99x20"},
        silent="10m", fires="11m", says="10% of the requests end with a server error",
    ),
    Case(
        "FerryDiskFull",
        {"ferry_repository_free_bytes": "1048575x5"},
        {"ferry_repository_free_bytes": "1048576x5"},
        silent="0m",
        fires="1m",
        says="its disk is full, and every write is refused",
    ),
    Case(  # a gigabyte of a hundred; of two it is half
        "FerryDiskFillsUp",
        {"ferry_repository_free_bytes": "1000000000x60", "ferry_repository_disk_bytes": "100000000000x60"},
        {"ferry_repository_free_bytes": "1000000000x60", "ferry_repository_disk_bytes": "2000000000x60"},
        silent="29m",
        fires="30m",
        says="its disk will soon be full: 953.7MiB are free",
    ),
    Case(  # 86 GB a day, with 50 left; and 14 GB a day
        "FerryDiskFillsUp",
        {
            "ferry_repository_free_bytes": "50000000000-60000000x60",
            "ferry_repository_disk_bytes": "100000000000x60",
        },
        {
            "ferry_repository_free_bytes": "50000000000-10000000x60",
            "ferry_repository_disk_bytes": "100000000000x60",
        },
        silent="30m",
        fires="31m",
        says="its disk will soon be full: 44.83GiB are free",
    ),
    Case(
        "FerryCertificateEnds",
        {'ferry_ca_certificate_end_timestamp_seconds{subject="Town Root"}': "1209600x5"},
        {'ferry_ca_certificate_end_timestamp_seconds{subject="Village"}': "9999999x5"},
        silent="0m",
        fires="1m",
        says="the certificate of Town Root expires in 13d 23h 59m 0s",
        labels={"subject": "Town Root"},
    ),
    Case(
        "FerryCommitsArriveLate",
        {'ferry_commit_to_remote_seconds_bucket{remote="origin", le="60"}': "0+9x50",
         'ferry_commit_to_remote_seconds_bucket{remote="origin", le="+Inf"}': "0+10x50",
         'ferry_commit_to_remote_seconds_bucket{remote="origin", le="120"}': "0+10x50"},
        {'ferry_commit_to_remote_seconds_bucket{remote="origin", le="60"}': "0+10x50",
         'ferry_commit_to_remote_seconds_bucket{remote="origin", le="+Inf"}': "0+10x50"},
        silent="30m", fires="31m", says="one commit in twenty takes over a minute to origin", labels=ORIGIN,
    ),
    Case(  # pushes that go on failing; one that failed once
        "FerryBrokerTakesNothing",
        {'ferry_enqueue_failures_total{remote="origin"}': "0x5 1+1x40"},
        {'ferry_enqueue_failures_total{remote="origin"}': "0x5 1x40"},
        silent="20m", fires="21m", labels=ORIGIN,
        says="the broker refuses messages; the sweep queues the pushes",
    ),
    Case(
        "FerryWritesAreSlow",
        {'ferry_transact_seconds_bucket{le="2.5"}': "0+98x30",
         'ferry_transact_seconds_bucket{le="5"}': "0+100x30",
         'ferry_transact_seconds_bucket{le="+Inf"}': "0+100x30"},
        {'ferry_transact_seconds_bucket{le="2.5"}': "0+100x30",
         'ferry_transact_seconds_bucket{le="+Inf"}': "0+100x30"},
        silent="15m", fires="16m", says="one write in a hundred takes over 3.75s",
    ),
    Case(
        "FerryNotVerified",
        {'ferry_last_verified_timestamp_seconds{remote="origin"}': "-604800x5"},
        {'ferry_last_verified_timestamp_seconds{remote="origin"}': "0x5"},
        silent="0m", fires="1m", says="origin was not verified for a week", labels=ORIGIN,
    ),
    Case(
        "FerryNotPacked",
        {'ferry_repository_objects{kind="loose"}': "20001x90"},
        {'ferry_repository_objects{kind="loose"}': "20000x90",
         'ferry_repository_objects{kind="packed"}': "90000x90"},
        silent="59m", fires="60m", says="too many loose objects: maintenance does not run",
    ),
]  # fmt: skip


Rules = list[dict[str, Any]]


def _promtool(tmp_path: Path, rules: dict[str, Rules], groups: list[dict[str, Any]]) -> None:
    """
    Hold the rules, by whose they are, against *groups*; fails with what promtool says.

    Each group meets the rules of its own alert: promtool evaluates every rule that it is given, every minute.
    """
    tests = []
    for number, group in enumerate(groups):
        alert = group["alert_rule_test"][0]["alertname"]
        own = [
            {"name": name, "rules": [rule for rule in each if rule["alert"] == alert]}
            for name, each in rules.items()
        ]
        (tmp_path / f"rules-{number}.yml").write_text(yaml.safe_dump({"groups": own}))
        test = {"rule_files": [f"rules-{number}.yml"], "tests": [group]}
        tests.append(tmp_path / f"test-{number}.yml")
        tests[-1].write_text(yaml.safe_dump(test))
    command, env = ["promtool", "test", "rules", *tests], {**os.environ, "GOGC": "400"}
    done = subprocess.run(command, env=env, capture_output=True, text=True, timeout=120)
    assert done.returncode == 0, done.stdout + done.stderr


def _of_the_chart(helm, release: str) -> Rules:
    options = ["--values", str(CHART / "ci" / "minimal-values.yaml"), "--set", "prometheusRule.enabled=true"]
    manifests = helm.render(*options, "--show-only", "templates/monitoring.yaml", release=release)
    return [rule for group in manifests[0]["spec"]["groups"] for rule in group["rules"]]


def test_every_alert_fires_in_time_for_the_repository_in_trouble(tmp_path):
    need("promtool")
    assert {case.alert for case in CASES} == set(BY_NAME)
    _promtool(tmp_path, {"ferry": [*BY_NAME.values()]}, [case.group() for case in CASES])


def test_the_rules_of_two_releases_fire_once(helm, tmp_path):
    """
    Each release's rules see its own repository alone, and a release that never came up.
    """
    need("promtool")
    rules = {release: _of_the_chart(helm, release) for release in ("town", "village")}
    labels = {"namespace": "data", "service": "village-ferry", "severity": "critical"}
    texts = BY_NAME["FerryDown"]["annotations"] | {"summary": "no API process answers"}
    alert = {"exp_labels": labels, "exp_annotations": texts}
    never_up = {
        "interval": "1m",
        "input_series": _series(IN_TROUBLE, {'ferry_build_info{version="1"}': "1x10"}),
        "alert_rule_test": [{"eval_time": "5m", "alertname": "FerryDown", "exp_alerts": [alert]}],
    }
    _promtool(tmp_path, rules, [*(case.group() for case in CASES), never_up])


def test_the_package_of_the_chart_has_the_rules(helm, tmp_path):
    done = helm("package", str(CHART), "--destination", str(tmp_path))
    assert done.returncode == 0, done.stderr
    (package,) = tmp_path.glob("*.tgz")
    with tarfile.open(package) as files:
        assert files.extractfile("ferry/prometheus-rules.yml").read() == RULES.read_bytes()


# --- A Prometheus that runs ---


@pytest.fixture
def prometheus(env, tmp_path):
    """
    The address of a Prometheus that has Ferry's rules and scrapes a real API.
    """
    need("prometheus")
    port = free_port()
    server = make_server("127.0.0.1", 0, create_app(env, open_access=True), threaded=True)
    configuration = {
        "global": {"scrape_interval": "500ms", "scrape_timeout": "500ms", "evaluation_interval": "500ms"},
        "rule_files": [str(RULES)],
        "scrape_configs": [
            {"job_name": "ferry", "static_configs": [{"targets": [f"127.0.0.1:{server.port}"]}]},
        ],
    }
    (tmp_path / "prometheus.yml").write_text(yaml.safe_dump(configuration))
    command = [
        "prometheus",
        f"--config.file={tmp_path}/prometheus.yml",
        f"--storage.tsdb.path={tmp_path}/tsdb",
    ]
    threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.05}, daemon=True).start()
    with (tmp_path / "prometheus.log").open("wb") as log:
        started = subprocess.Popen(
            [*command, f"--web.listen-address=127.0.0.1:{port}"], stdout=log, stderr=log
        )
    try:
        wait_until(lambda: _is_ready(port), what="Prometheus")
        yield f"http://127.0.0.1:{port}/api/v1"
    finally:
        started.kill()
        started.wait(10)
        server.shutdown()
        server.server_close()


def _is_ready(port: int) -> bool:
    with (
        contextlib.suppress(OSError),
        urllib.request.urlopen(f"http://127.0.0.1:{port}/-/ready", timeout=10) as answer,
    ):
        return answer.status == 200
    return False


def _ask(url: str) -> dict[str, Any]:
    with urllib.request.urlopen(url, timeout=10) as answer:
        return json.load(answer)["data"]


def test_a_real_prometheus_scrapes_ferry_and_evaluates_its_rules(data, prometheus, remote):
    with Ledger(remotes_directory(data.path)).claim("origin") as claim:
        claim.write(paused_at=1.0)

    (alert,) = wait_until(
        lambda: [
            each
            for each in _ask(f"{prometheus}/alerts")["alerts"]
            if each["labels"]["alertname"] == "FerryRemotePaused"
        ],
        what="the alert of a remote that is paused",
    )

    repository = str(remote.path).removesuffix(".git")
    assert alert["labels"]["repository"] == repository
    assert alert["annotations"]["summary"] == f"{repository}: origin has been paused for half a day"
    (target,) = _ask(f"{prometheus}/targets")["activeTargets"]
    assert (target["health"], target["lastError"]) == ("up", "")
    rules = [rule for group in _ask(f"{prometheus}/rules")["groups"] for rule in group["rules"]]
    assert {(rule["name"], rule["health"]) for rule in rules} == {(name, "ok") for name in BY_NAME}
