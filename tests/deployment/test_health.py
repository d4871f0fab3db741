"""
`ferry-health`, which docker and Kubernetes ask every few seconds.
"""

from __future__ import annotations

import json
import os
import re
import subprocess
import sys
import threading
import time
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

import pytest
from werkzeug.serving import make_server

from ferry.app import create_app
from tests.deployment.helm import ROOT


@pytest.fixture
def health(tmp_path):
    """
    Return what it says, or None where all is well.
    """

    def health(*arguments, role="", **env):
        if role:
            (tmp_path / "ferry-role").write_text(f"{role}\n")
        done = subprocess.run(
            [sys.executable, "-IS", ROOT / "docker" / "health.py", *arguments],
            env={"PATH": os.environ["PATH"], "TMPDIR": str(tmp_path), **env},
            capture_output=True,
            text=True,
            timeout=20,
        )
        assert "Traceback" not in done.stderr
        assert (done.returncode == 0) == (done.stderr == "")
        return done.stderr or None

    return health


@pytest.fixture
def sweep(tmp_path):
    def sweep(seconds_ago):
        (tmp_path / "data.git" / "ferry").mkdir(parents=True, exist_ok=True)
        record = tmp_path / "data.git" / "ferry" / "sweep.json"
        record.write_text(json.dumps({"at": time.time() - seconds_ago}))
        return {"CFP_DATA_REPO_PATH": str(tmp_path / "data.git")}

    return sweep


@pytest.fixture
def server():
    """
    An HTTP server that answers each path with the status that it names.
    """

    class Handler(BaseHTTPRequestHandler):
        def do_GET(self):
            self.send_response({"/api/health": 200, "/healthcheck": 200}.get(self.path, 503))
            self.end_headers()

        def log_message(self, *_):
            pass

    with ThreadingHTTPServer(("127.0.0.1", 0), Handler) as server:
        thread = threading.Thread(target=server.serve_forever)
        thread.start()
        yield server.server_port
        server.shutdown()
        thread.join()


@pytest.mark.parametrize("role", ["worker", "beat"])
def test_worker_and_beat_are_well_while_sweeps_take_place(health, sweep, role):
    assert health(role=role, **sweep(10)) is None
    assert re.search(r"the last sweep took place 36\d\d s ago", health(role=role, **sweep(3600)))
    assert health(role=role, CFP_PUSH_SWEEP_INTERVAL="1200", **sweep(3600)) is None


def test_before_the_first_sweep_nobody_says_that_all_is_well(health, tmp_path):
    assert "FileNotFoundError" in health(role="worker", CFP_DATA_REPO_PATH=str(tmp_path))


@pytest.mark.parametrize("role", ["api", "flower"])
def test_api_and_flower_are_well_while_they_answer(health, server, role):
    assert health(role=role, PORT=str(server)) is None
    assert health(role=role, PORT="1")


def test_an_answer_that_is_no_success_is_no_health(health, server):
    assert "503" in health("http", f"http://127.0.0.1:{server}/api/health/ready")


def test_a_port_is_looked_up_without_a_connection(health, server):
    assert health("listens", str(server)) is None
    assert "nothing listens on port 1" in health("listens", "1")


def test_without_a_role_nobody_says_that_all_is_well(health):
    assert "ferry-role" in health()


def test_any_other_command_is_well_while_it_runs(health):
    assert health(role="ferry") is None


def test_it_writes_reads_and_deletes_a_record(health, env, data):
    """
    As `helm test` does with `test.write`: two commits, and everything is as it was.
    """
    before = data.git("rev-parse", "main^{tree}")
    server = make_server("127.0.0.1", 0, create_app(env, open_access=True), threaded=True)
    thread = threading.Thread(target=server.serve_forever)
    thread.start()
    try:
        records = f"http://127.0.0.1:{server.port}/api/sheets/people/records"
        record = json.dumps({"slug": "helm-test", "name": "helm test"})
        assert health("writes", records, record, TOKEN="x") is None
        assert "HTTPError" in health("writes", records, "{}", TOKEN="x")
    finally:
        server.shutdown()
        thread.join()
        server.server_close()
    assert data.git("rev-parse", "main^{tree}") == before
    assert data.git("log", "-2", "--format=%s", "main").count("/api/sheets/people/records") == 2
