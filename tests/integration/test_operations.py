"""
The operator's hands, as commands over a real deployment.
"""

from __future__ import annotations

import base64
import contextlib
import gzip
import hashlib
import http.server
import json
import os
import re
import shutil
import sys
import threading
import time
import urllib.request

import psutil
import pytest

from ferry.app.dev import running
from ferry.app.dev.stack import accepts, free_port
from tests import nursery
from tests.parts import clean_environment, sample, wait_until

PEOPLE = "/api/sheets/people/records"


def _write(api, slug="jane"):
    answer = api.put(f"{PEOPLE}/{slug}", json={"slug": slug, "name": "Jane"})
    return answer.json["commit"]["hash"]


def _status(api):
    return api.get("/api/_internal/push").json["remotes"]["origin"]


# --- Pausing ---


def test_a_paused_remote_waits_for_its_operator(client, worker, beat, remote, ferry):
    """
    Neither a commit, nor a sweep, nor a worker's start pushes to it; resuming does at once.
    """
    api, running = client(), worker()
    wait_until(lambda: remote.head(), what="the first push")
    paused = ferry("push", "pause", "--for", "2h", "--reason", "the host moves")
    assert paused.returncode == 0, paused.stderr
    assert paused.stdout.startswith("origin: paused until 20")
    there = remote.head()
    commit = _write(api)
    running.kill()
    running.spawn()
    running.await_ready()
    beat(CFP_PUSH_SWEEP_INTERVAL="1")
    sweeps = set()

    def swept():
        sweeps.add(api.get("/api/_internal/push").json["sweep"]["last_at"])
        return len(sweeps) >= 3

    wait_until(swept, what="two sweeps more")
    api.post("/api/_internal/push")
    wait_until(lambda: running.logged("An operator has paused"), what="the task that was declined")
    assert remote.head() == there
    assert (_status(api)["state"], _status(api)["pending_commits"]) == ("paused", 1)
    shown = ferry("push", "status")
    assert shown.returncode == 0
    by = _status(api)["paused_by"]
    assert "@" in by
    assert f"by {by}: the host moves, until {_status(api)['paused_until']}" in shown.stdout
    assert "paused since" in shown.stdout
    now = ferry("push", "now")
    assert (now.returncode, now.stdout.partition(";")[0]) == (1, "origin: paused, so nothing is pushed")

    assert ferry("push", "resume").stdout == "origin: resumed\n"
    wait_until(lambda: remote.head() == commit, what="the commit on the remote")
    assert _status(api)["paused_at"] is None
    api.post("/api/_internal/push", json={"reason": "in a hurry"})
    told = [line.split(" ", 2)[2] for line in ferry("push", "history").stdout.splitlines()]
    assert [each for each in told if " by " in each] == [
        f"paused by {by} (the host moves)",
        f"resumed by {by}",
        "requested by dev@127.0.0.1 (in a hurry)",
    ]
    events = map(json.loads, ferry("push", "history", "--pushes", "--json").stdout.splitlines())
    assert "pushed" in {event["kind"] for event in events}


@pytest.mark.parametrize("given", ["2", "h", "-1h", "0m", "2 weeks", "1e3s", "9999999d", "367d", "99999999s"])
def test_a_pause_lasts_a_time(ferry, given):
    refused = ferry("push", "pause", f"--for={given}")
    why = "longer than a year" if given[0] in "39" else "not a time such as 90s, 30m, 2h or 1d"
    assert (refused.returncode, why in refused.stderr) == (2, True)


def test_nothing_is_pushed_to_a_paused_remote_and_a_resume_says_where_no_push_was_queued(client, ferry):
    _write(client())
    assert ferry("push", "pause").returncode == 0
    refused = ferry("push", "find-refused")
    assert (refused.returncode, "origin is paused" in refused.stderr) == (1, True)
    resumed = ferry("push", "resume", CFP_REDIS_URL="redis://127.0.0.1:1/0")
    assert (resumed.returncode, resumed.stdout) == (1, "origin: resumed\n")
    assert "the next sweep pushes what waits" in resumed.stderr


def test_a_pause_that_is_over_is_not_shown(client, ferry):
    api = client()
    assert ferry("push", "pause", "--for", "1s").returncode == 0
    wait_until(lambda: _status(api)["paused_at"] is None, what="the end of the pause")
    assert "paused" not in ferry("push", "status").stdout


# --- Looking ---


def test_commits_say_where_they_are(client, worker, remote, ferry, data):
    api, running = client(), worker()
    pushed = data.head()
    wait_until(lambda: remote.head() == pushed, what="the first push")
    running.stop()
    waiting = [_write(api, slug) for slug in ("ann", "bob")]
    listed = ferry("commits", "--pending", "--json").stdout.splitlines()
    assert [json.loads(line)["hash"] for line in listed] == waiting[::-1]
    assert json.loads(listed[0])["push"] == {"origin": "pending"}
    everything = ferry("commits", "--limit", "3").stdout
    assert f"{waiting[1][:12]} " in everything
    assert "origin:pending dev: PUT" in everything
    assert f"{pushed[:12]} " in everything
    assert "origin:pushed" in everything


def test_doctor_finds_a_healthy_deployment_healthy(client, worker, beat, remote, ferry, sentry):
    client()
    worker(), beat()
    wait_until(lambda: remote.head(), what="the first push")
    wait_until(lambda: ferry("doctor").stdout.count("ok       sweep"), what="a sweep")
    done = ferry("doctor", "--json", SENTRY_DSN=sentry.dsn)
    findings = {each["name"]: each for each in map(json.loads, done.stdout.splitlines())}
    assert done.returncode == 0, done.stdout
    for name in ("git", "repository", "broker", "worker", "sweep", "sentry", "disk", "remote origin"):
        assert findings[name]["state"] == "ok", findings[name]
    assert sentry.events[-1]["level"] == "info"


def test_doctor_names_what_is_wrong_and_the_remedy(data, remote, ferry, tmp_path, env):
    remote.path.rename(tmp_path / "away.git")
    (data.path / "refs" / "heads" / "main.lock").touch()
    os.utime(data.path / "refs" / "heads" / "main.lock", (0, 0))
    done = ferry(
        "doctor",
        CFP_REDIS_URL="redis://127.0.0.1:1/0",
        CFP_SSH_KEY_PATH=str(tmp_path / "no-key"),
        SENTRY_DSN="http://key@127.0.0.1:1/1",
    )
    assert done.returncode == 1
    failed = re.findall(r"^failed\s+(.*?): ", done.stdout, re.MULTILINE)
    assert failed == ["broker", "worker", "sweep", "CFP_SSH_KEY_PATH", "sentry", "remote origin"]
    assert re.search(r"^warning\s+locks: .*main\.lock is old", done.stdout, re.MULTILINE)
    assert "not-found" in done.stdout
    assert "Start a worker first." in done.stdout, "no beat is to blame"


def test_doctor_judges_access_by_the_stack_that_runs(ferry, env, tmp_path):
    """
    `ferry dev` asks for no token; nothing else than its announcement tells that.
    """
    refused, closed = "CFP_API_TOKENS is not set: every write is refused", "CFP_ADMIN_TOKEN is not set"
    said = ferry("doctor", TMPDIR=str(tmp_path)).stdout
    assert refused in said
    assert closed in said
    directory = tmp_path / f"{running.PREFIX}1"
    directory.mkdir(0o700)
    with running.announced(directory, env):
        said = ferry("doctor", TMPDIR=str(tmp_path)).stdout
    assert "access: ferry dev serves this repository" in said
    assert refused not in said
    assert closed not in said


# --- Proving ---


def test_verify_compares_and_restores(client, worker, remote, ferry, data):
    api, running = client(), worker()
    wait_until(lambda: remote.head() == data.head(), what="the first push")
    done = ferry("verify", "--clone")
    assert done.returncode == 0, done.stdout
    assert "origin: ok: has everything" in done.stdout
    assert "50 records in 3 sheets can be read" in done.stdout
    assert _status(api)["last_verified_at"]
    running.stop()
    _write(api)
    assert "lacks 1 of our commits" in ferry("verify").stdout


@pytest.mark.parametrize(
    ("ask", "lose"),
    [
        ("command", ["refs/heads/main", "main~1"]),
        ("api", ["-d", "refs/heads/main"]),
        ("verify", ["refs/heads/main", "main~1"]),
    ],
)
def test_an_operator_who_asks_for_a_push_has_the_remote_asked(client, worker, remote, ferry, data, ask, lose):
    """
    It was made anew or restored since; nothing seems to be pending.
    """
    api, _ = client(), worker()
    wait_until(
        lambda: _status(api)["state"] == "idle" and remote.head() == data.head(), what="the first push"
    )
    remote.git("update-ref", *lose)
    if ask == "command":
        assert ferry("push", "now").returncode == 0
    elif ask == "api":
        assert api.post("/api/_internal/push").status_code == 202
    else:
        done = ferry("verify")
        assert done.returncode == 1
        assert "commits that were pushed" in done.stdout

    wait_until(lambda: remote.head() == data.head(), what="what was lost, on the remote again")


def test_verify_fails_where_a_remote_is_not_ours_or_not_whole(client, worker, remote, ferry, data, tmp_path):
    _, running = client(), worker()
    wait_until(lambda: remote.head() == data.head(), what="the first push")
    running.stop()
    blob = remote.git("rev-parse", "main:.gitsheets/people.toml")
    path = remote.path / "objects" / blob[:2] / blob[2:]
    if path.exists():
        path.unlink()
        broken = ferry("verify", "--clone")
        assert broken.returncode == 1
        assert "failed" in broken.stdout
    remote.commit("theirs")
    foreign = ferry("verify")
    assert foreign.returncode == 1
    assert "holds commits that we lack" in foreign.stdout
    remote.path.rename(tmp_path / "away.git")
    assert ferry("verify").returncode == 1


def test_a_test_page_is_a_page(ferry, sentry):
    assert ferry("page", "--test", SENTRY_DSN=sentry.dsn).returncode == 0
    [page] = sentry.events
    assert page["level"] == "fatal"
    assert page["tags"]["reason"] == "test"
    assert "SENTRY_DSN is not set" in ferry("page", "--test").stderr
    assert "did not accept" in ferry("page", "--test", SENTRY_DSN="http://key@127.0.0.1:1/1").stderr


# --- Metrics ---


def test_metrics_tell_what_pushes_came_to(client, worker, remote):
    api, running = client(), worker()
    wait_until(lambda: remote.head(), what="the first push")
    commit = _write(api)
    wait_until(lambda: remote.head() == commit, what="the commit on the remote")
    running.await_event("push.done", count=2)

    def found(name, **labels):
        repository = str(remote.path).removesuffix(".git")  # as in Sentry's tags
        return sample(api.get("/metrics").text, name, repository=repository, **labels)

    wait_until(lambda: found("ferry_push_seconds_count", remote="origin") == 2, what="both pushes")
    assert found("ferry_unpushed_commits", remote="origin") == 0
    assert found("ferry_commit_to_remote_seconds_count", remote="origin") == 2
    assert found("ferry_commit_to_remote_seconds_bucket", remote="origin", le="+Inf") == 2
    assert found("ferry_push_attempts_total", remote="origin", outcome="pushed") == 2
    assert found("ferry_pushed_commits_total", remote="origin") == 3
    assert found("ferry_coalesced_commits_total", remote="origin") == 1
    assert found("ferry_push_paused", remote="origin") == 0
    assert found("ferry_push_failing_seconds", remote="origin") == 0
    assert found("ferry_transact_seconds_count") >= 1
    assert found("ferry_http_requests_total", endpoint="records.replace", method="PUT", status="201") >= 1

    remote.hook("pre-receive", "exit 1")
    _write(api, "joe")
    running.await_event("push.blocked")
    wait_until(lambda: found("ferry_push_episodes_total", reason="rejected") == 1, what="the episode")
    assert found("ferry_push_failing_seconds", remote="origin") > 0


@pytest.fixture
def four(env, tmp_path):
    """
    The address and the main process of an API with four more, whose temporary files are in ``tmp_path``.
    """
    port, token = free_port(), f"ana:{hashlib.sha256(b'secret').hexdigest()}"
    command = [sys.executable, "-m", "gunicorn", "--bind", f"127.0.0.1:{port}", "--workers", "4"]
    with (tmp_path / "api.log").open("wb") as log:
        process = nursery.spawn(
            [*command, "ferry.app:create_app()"],
            env={**clean_environment(), **env, "TMPDIR": str(tmp_path), "CFP_API_TOKENS": token},
            output=log,
            errors=log,
        )
    try:
        wait_until(lambda: accepts(port), what="gunicorn")
        wait_until(lambda: len(psutil.Process(process.pid).children()) == 4, what="four processes")
        yield f"http://127.0.0.1:{port}", process
    finally:
        process.terminate()
        process.wait(20)


def _get(url):
    with urllib.request.urlopen(url, timeout=30) as answer:
        return answer.read().decode()


def _sheets_asked(address):
    labels = {"endpoint": "sheets.index", "method": "GET", "status": "200"}
    return sample(_get(f"{address}/metrics"), "ferry_http_requests_total", **labels)


def test_metrics_are_the_same_from_every_process_and_outlive_each(four):
    """
    Four processes answer in turn; each says what all of them did, those that were killed too.
    """
    address, main = four
    for _ in range(40):
        _get(f"{address}/api/sheets")
    for _ in range(8):
        assert _sheets_asked(address) == 40
    before = psutil.Process(main.pid).children()
    before[0].kill()
    wait_until(
        lambda: len(set(psutil.Process(main.pid).children()) - set(before)) == 1, what="another process"
    )
    assert _sheets_asked(address) == 40


def test_a_directory_for_metrics_that_was_cleared_away_costs_no_request(four, tmp_path):
    """
    A process counts on in a new file, a second after it took the one that was removed at the latest.
    """
    address, _ = four
    _get(f"{address}/api/sheets")
    (place,) = tmp_path.glob("ferry-metrics-*")
    shutil.rmtree(place)
    request = urllib.request.Request(
        f"{address}/api/sheets/people/records/jane",
        json.dumps({"slug": "jane", "name": "Jane"}).encode(),
        {"Authorization": "Bearer secret", "Content-Type": "application/json"},
        method="PUT",
    )
    with urllib.request.urlopen(request, timeout=30) as answer:
        assert answer.status == 201

    def is_counted_again():
        _get(f"{address}/api/sheets")
        return _sheets_asked(address) >= 1

    wait_until(is_counted_again, what="what the processes count from then on")


# --- From the request to the push ---


def test_a_request_can_be_followed_to_its_push(client, worker, remote):
    """
    The same id in the answer, the commit, the task and the push that it led to.
    """
    api, running = client(), worker()
    wait_until(lambda: remote.head(), what="the first push")
    trace = "00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01"

    def followed(number):
        # A task that is still at work may take this commit along; then its push is no child of this request.
        answer = api.put(
            f"{PEOPLE}/jane{number}",
            json={"slug": f"jane{number}", "name": "Jane"},
            headers={"X-Request-Id": f"req-{number}", "traceparent": trace},
        )
        commit = answer.json["commit"]["hash"]
        assert answer.headers["X-Request-Id"] == f"req-{number}"
        wait_until(lambda: [e for e in running.events("push.done") if e["commit"] == commit], what="the push")
        return [e for e in running.events("push.done") if e.get("request_id") == f"req-{number}"]

    [done] = next(found for number in range(9) if (found := followed(number)))
    assert done["traceparent"] == trace
    assert done["task"]


def test_a_retry_still_knows_its_request(client, worker, remote, tmp_path):
    running = worker()
    running.await_event("push.done")
    api = (
        client()
    )  # not before: its start queues what it finds pending, and that task may take this commit along
    away = remote.path.rename(tmp_path / "away.git")
    api.put(f"{PEOPLE}/jane", json={"slug": "jane", "name": "Jane"}, headers={"X-Request-Id": "req-8"})
    running.await_event("push.failed", count=2)
    away.rename(remote.path)
    assert running.await_event("push.done", count=2)["request_id"] == "req-8"


# --- Sentry beyond pages ---


def test_sentry_is_told_of_sweeps_and_timings_where_it_is_asked_for(
    client, worker, beat, remote, sentry, env
):
    env |= {"SENTRY_CRON_MONITOR": "ferry-sweep", "SENTRY_TRACES_SAMPLE_RATE": "1", "SENTRY_DSN": sentry.dsn}
    worker(), beat()
    wait_until(lambda: remote.head(), what="the first push")
    client()  # not before: a worker that takes long to start would be a reason to page
    wait_until(lambda: sentry.items("check_in"), what="a check-in")
    check_in = sentry.items("check_in")[0]
    assert (check_in["monitor_slug"], check_in["status"]) == ("ferry-sweep", "ok")
    wait_until(
        lambda: "push" in {each.get("transaction") for each in sentry.items("transaction")}, what="timings"
    )
    assert all(each["release"].startswith("ferry@") for each in sentry.items("transaction"))
    assert sentry.events == []


# --- OpenTelemetry ---


class _Collector(http.server.BaseHTTPRequestHandler):
    """
    As much of an OTLP collector as takes traces (https://opentelemetry.io/docs/specs/otlp/).
    """

    def do_POST(self):
        from opentelemetry.proto.collector.trace.v1.trace_service_pb2 import ExportTraceServiceRequest

        body = self.rfile.read(int(self.headers["Content-Length"]))
        if self.headers.get("Content-Encoding") == "gzip":
            body = gzip.decompress(body)
        request = ExportTraceServiceRequest.FromString(body)
        for resource in request.resource_spans:
            [name] = [a.value.string_value for a in resource.resource.attributes if a.key == "service.name"]
            for scope in resource.scope_spans:
                self.server.spans += [(name, span.name, span.trace_id) for span in scope.spans]
        self.send_response(200)
        self.end_headers()

    def log_message(self, *_):
        pass


@pytest.fixture
def collector():
    with http.server.ThreadingHTTPServer(("127.0.0.1", 0), _Collector) as server:
        server.spans = []
        thread = threading.Thread(target=server.serve_forever, args=(0.05,), daemon=True)
        thread.start()
        yield server
        server.shutdown()


def test_one_trace_leads_from_the_request_to_the_push(env, worker, remote, collector, tmp_path):
    """
    Over three processes: the API's, the worker's pool and git.
    """
    from ferry.app.dev.stack import accepts, free_port

    port, token = free_port(), "t"
    env |= {
        "OTEL_EXPORTER_OTLP_ENDPOINT": f"http://127.0.0.1:{collector.server_address[1]}",
        "OTEL_BSP_SCHEDULE_DELAY": "100",
        "PYTHONPATH": "",  # tests/lean hides the packages for it
        "CFP_API_TOKENS": f"ana:{hashlib.sha256(token.encode()).hexdigest()}",
    }
    worker()
    wait_until(lambda: remote.head(), what="the first push")
    command = [sys.executable, "-m", "gunicorn", "--bind", f"127.0.0.1:{port}", "ferry.app:create_app()"]
    with (tmp_path / "api.log").open("wb") as log:
        process = nursery.spawn(command, env={**clean_environment(), **env}, output=log, errors=log)
    try:
        wait_until(lambda: accepts(port), what="gunicorn")

        def traced(number):
            body = json.dumps({"slug": f"jane{number}", "name": "Jane"}).encode()
            headers = {"Authorization": f"Bearer {token}", "Content-Type": "application/json"}
            url = f"http://127.0.0.1:{port}{PEOPLE}/jane{number}"
            before = remote.head()
            with urllib.request.urlopen(urllib.request.Request(url, body, headers, method="PUT"), timeout=60):
                wait_until(lambda: remote.head() != before, what="the push")

            def whole():
                traces = {}
                for service, name, trace in collector.spans:
                    traces.setdefault(trace, set()).add((service, name))
                wanted = {
                    ("ferry-api", "transact"),
                    ("ferry-worker", "run/push"),
                    ("ferry-worker", "git push"),
                }
                return [spans for spans in traces.values() if wanted <= spans]

            with contextlib.suppress(AssertionError):  # a task at work may have taken the commit along
                return wait_until(whole, timeout_s=4 * (number + 1))

        assert any(traced(number) for number in range(8)), collector.spans
    finally:
        process.terminate()
        process.wait(20)


# --- Log lines ---


def test_gunicorns_lines_have_the_form_of_all_others(env, tmp_path):
    from ferry.app.dev.stack import accepts, free_port

    port, path = free_port(), tmp_path / "api.log"
    command = [
        sys.executable,
        "-m",
        "gunicorn",
        "--config",
        "python:ferry.app.server.gunicorn_logging",
        "--access-logfile",
        "-",
    ]
    with path.open("wb") as log:
        process = nursery.spawn(
            [*command, "--bind", f"127.0.0.1:{port}", "ferry.app:create_app()"],
            env={**clean_environment(), **env},
            output=log,
            errors=log,
        )
    try:
        wait_until(lambda: accepts(port), what="gunicorn")
        with urllib.request.urlopen(f"http://127.0.0.1:{port}/api/health", timeout=60):
            pass
    finally:
        process.terminate()
        process.wait(20)
    lines = [json.loads(line) for line in path.read_text().splitlines()]
    loggers = {line.get("logger") for line in lines}
    assert {"gunicorn.error", "gunicorn.access"} <= loggers
    assert any("Listening at" in line["event"] for line in lines)
    assert any("/api/health" in line["event"] for line in lines)


# --- Credentials that end ---


def test_doctor_says_when_a_token_ends(ferry, tmp_path, env):
    def jwt(ends):
        claims = base64.urlsafe_b64encode(json.dumps({"exp": ends}).encode()).decode().rstrip("=")
        return f"h.{claims}.s"

    token = tmp_path / "token"
    settings = {"CFP_DATA_REMOTE": "http://127.0.0.1:1/x.git", "CFP_HTTPS_TOKEN_PATH": str(token)}
    found = {}
    for name, text in (
        ("soon", jwt(time.time() + 3600)),
        ("over", jwt(1)),
        ("far", jwt(9e9)),
        ("plain", "t0ken"),
    ):
        token.write_text(text)
        done = ferry("doctor", "--json", **settings)
        [finding] = [
            f for f in map(json.loads, done.stdout.splitlines()) if f["name"] == "CFP_HTTPS_TOKEN_PATH"
        ]
        found[name] = finding["state"]
        assert text not in done.stdout
    assert found == {"soon": "warning", "over": "failed", "far": "ok", "plain": "ok"}
