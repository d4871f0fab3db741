"""
A thousand commits during an outage are one chain, not a thousand.
"""

from __future__ import annotations

import threading
import time
from concurrent.futures import ThreadPoolExecutor
from datetime import UTC, datetime
from pathlib import Path

import pytest

from ferry.worker.turns.turn import Turn
from tests.parts import Bare, wait_until


@pytest.fixture
def env(env):
    """
    A retry is taken for lost when it is a sweep's interval late. With a short one, that would depend on how
    busy the machine is.
    """
    backoff = {"CFP_PUSH_BACKOFF_BASE": "0.5", "CFP_PUSH_BACKOFF_CAP": "4"}
    return {**env, **backoff, "CFP_PUSH_SWEEP_INTERVAL": "60"}


def test_an_outage_with_a_thousand_commits_is_one_chain(
    env, client, worker, beat, remote, tmp_path, valkey_port
):
    """
    At most one running push and one scheduled retry at any time, attempts by the
    backoff and not by the commit, and the backlog goes in one or a few pushes.
    """
    calls = tmp_path / "calls"
    remote.hook("pre-receive", f"echo start >> {calls}; exit 0")
    api, running = client(), worker()
    beat(CFP_PUSH_SWEEP_INTERVAL="1")  # sweeps add nothing to the chain
    wait_until(lambda: _status(api)["state"] == "idle")
    away = remote.path.rename(tmp_path / "away.git")
    watch = _Watch(running)

    begun = time.monotonic()
    with watch:
        _write_many(api, 1000)
        running.await_event("push.failed", count=3)
        failed, lasted_s = running.events("push.failed"), time.monotonic() - begun
        assert _status(api)["pending_commits"] == 1000
        away.rename(remote.path)
        head = Bare(Path(env["CFP_DATA_REPO_PATH"])).head()
        wait_until(lambda: remote.head() == head, what="the backlog")

    assert len(watch.most_scheduled) == 1, watch.most_scheduled
    # 0.5, 1, 2, 4, 4 ... seconds, of which the jitter may halve each: by the clock.
    assert 2 <= len(failed) <= 4 + lasted_s / 2
    assert [event["attempt"] for event in failed] == list(range(1, len(failed) + 1))
    pushes = len(calls.read_text().splitlines())
    assert pushes <= 4  # the first one, and the backlog in one or a few


def test_push_now_brings_the_backlog_forward(env, client, worker, remote, tmp_path):
    """
    The retry is a minute away; an operator asks, and it happens at once.
    """
    env |= {"CFP_PUSH_BACKOFF_BASE": "60", "CFP_PUSH_BACKOFF_CAP": "60"}
    away = remote.path.rename(tmp_path / "away.git")
    api, running = client(), worker()
    running.await_event("push.retry_scheduled")
    commit = _write(api, 1)
    scheduled = _status(api)["next_attempt_at"]

    # In vain first: the one retry that is scheduled stays as it is.
    failures = len(running.events("push.failed"))
    assert api.post("/api/_internal/push").status_code == 202
    running.await_event("push.failed", count=failures + 1)
    wait_until(lambda: _status(api)["state"] == "retrying")
    assert _status(api)["next_attempt_at"] == scheduled
    assert len(running.events("push.retry_scheduled")) == 1

    away.rename(remote.path)
    assert api.post("/api/_internal/push").status_code == 202
    wait_until(lambda: remote.head() == commit, what="the commit on the remote")
    assert wait_until(lambda: _status(api)["next_attempt_at"] is None)


def test_push_now_during_an_attempt_that_fails_leads_to_another(env, client, worker, remote, tmp_path):
    """
    The attempt began before the operator's repair. The retry is an hour away.
    """
    env |= {"CFP_PUSH_BACKOFF_BASE": "3600", "CFP_PUSH_BACKOFF_CAP": "3600", "CFP_PUSH_EXPRESS": "off"}
    begun, ends = tmp_path / "begun", tmp_path / "ends"
    wait = f"until [ -e {ends} ]; do sleep 0.05; done; echo rate limit exceeded >&2; exit 1"
    api, running = client(), worker()
    wait_until(lambda: _status(api)["state"] == "idle")
    remote.hook("pre-receive", f"if [ ! -e {begun} ]; then touch {begun}; {wait}; fi")
    commit = _write(api, 1)
    wait_until(begun.exists)
    before = running.text().count(Turn.PUSHING.sentence)

    assert api.post("/api/_internal/push").status_code == 202
    wait_until(lambda: running.text().count(Turn.PUSHING.sentence) > before, what="the operator's task")
    ends.touch()

    wait_until(lambda: remote.head() == commit, what="the commit on the remote")
    assert [each["reason"] for each in running.events("push.failed")] == ["rate-limited"]


class _Watch:
    """
    Asks the worker again and again how many retries of a push it holds for later.

    One whose time has come may still be there, and is none for later.
    """

    def __init__(self, running):
        self._running = running
        self._stop = threading.Event()
        self._thread = threading.Thread(target=self._look)
        self.most_scheduled: list[tuple[str, str]] = []

    def __enter__(self):
        self._thread.start()

    def __exit__(self, *_):
        self._stop.set()
        self._thread.join(30)

    def _look(self):
        from ferry.worker.bootstrap import build

        celery = build({**self._running.env}, publisher=True).celery
        while not self._stop.is_set():
            answer = celery.control.inspect(timeout=10, limit=1).scheduled() or {}
            held = [
                (entry["eta"], entry["request"]["id"])
                for entries in answer.values()
                for entry in entries
                if entry["request"]["name"] == "push"
                and datetime.fromisoformat(entry["eta"]) > datetime.now(UTC)
            ]
            self.most_scheduled = max(self.most_scheduled, held, key=len)
            self._stop.wait(0.25)  # or worker and watch would have little time for anything else


def _write_many(api, count):
    """
    Make *count* commits: a fifth over HTTP, by eight threads, and the others by git, with a message for each
    as the API sends it.
    """
    built = api.application.extensions["ferry"]
    data = Bare(built.pipeline.settings.data_repo_path)
    _write_by_http(api, count // 5)
    before = data.head()
    data.grow(count - count // 5)
    for commit in data.git("rev-list", "--reverse", f"{before}..main").split():
        built.push_queue.enqueue_push(commit)


def _write_by_http(api, count):
    clients = [api.application.test_client() for _ in range(8)]
    for each in clients:
        each.environ_base.update(api.environ_base)
    with ThreadPoolExecutor(len(clients)) as threads:
        shares = [
            threads.submit(lambda each, start: [_write(each, n) for n in range(start, count, 8)], each, start)
            for start, each in enumerate(clients)
        ]
        commits = {commit for share in shares for commit in share.result()}
    assert len(commits) == count


def _write(api, number):
    slug = f"visitor-{number}"
    response = api.post("/api/sheets/people/records", json={"slug": slug, "name": slug})
    return response.json["commit"]["hash"]


def _status(api):
    return api.get("/api/_internal/push").json["remotes"]["origin"]
