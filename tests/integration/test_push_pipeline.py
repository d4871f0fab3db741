"""
A commit's whole way, with a real worker, a real broker and a real remote.

The first seven tests are the behaviours that gitsheets' own push daemon tests.
"""

from __future__ import annotations

import itertools
import os
import re
import shutil
import signal
import stat
import time
from pathlib import Path

import psutil
import pytest

from ferry.worker.bootstrap import build
from ferry.worker.enqueue import send_push
from ferry.worker.files.places import remotes_directory
from ferry.worker.ledger.ledger import Ledger
from tests.parts import Bare, sample, wait_until

JANE = {"slug": "jane", "name": "Jane"}


def _write(client, **fields):
    response = client.post("/api/sheets/people/records", json={**JANE, **fields})
    assert response.status_code == 201, response.json
    return response.json["commit"]["hash"]


def _status(client):
    return client.get("/api/_internal/push").json["remotes"]["origin"]


def test_a_commit_made_over_http_reaches_the_remote(client, worker, remote):
    api, running = client(), worker()
    running.await_event("push.done")  # of what its start found

    commit = _write(api)

    wait_until(lambda: remote.head() == commit, what="the commit on the remote")
    done = running.await_event("push.done", count=2)
    assert (done["remote"], done["branch"], done["commit"], done["commits"]) == ("origin", "main", commit, 1)
    assert done["lag_ms"] >= done["duration_ms"] > 0
    assert api.get(f"/api/commits/{commit}").json["push"] == {"origin": "pushed"}


def test_the_status_tells_the_truth_before_and_after(client, worker, data, remote):
    """
    Computed from git: two commits wait, then none, and the heads are the repositories' own.
    """
    api = client()
    commit = _write(api)

    waiting = _status(api)
    assert (waiting["state"], waiting["pending_commits"]) == ("queued", 3)  # with the sample's two
    assert (waiting["local_head"], waiting["remote_head"]) == (commit, None)
    assert waiting["oldest_pending_at"] is not None

    worker()
    wait_until(lambda: _status(api)["last_push_at"], what="a push that is in the ledger")
    there = _status(api)
    assert there["pending_commits"] == 0
    assert there["local_head"] == there["remote_head"] == remote.head() == data.head()
    assert there["state"] == "idle"
    assert there["last_error"] is there["next_attempt_at"] is there["oldest_pending_at"] is None


def test_a_diverged_remote_is_neither_overwritten_nor_retried_and_pages_once(
    client, env, worker, remote, sentry
):
    """
    The task fails for good, the log asks for a person, and Sentry gets one fatal event for all of it.
    """
    api, running = client(), worker(SENTRY_DSN=sentry.dsn)
    wait_until(lambda: _status(api)["state"] == "idle")
    theirs = remote.commit("theirs")

    first = _write(api)
    blocked = running.await_event("push.blocked")
    wait_until(lambda: running.logged("raised expected"), what="the end of the failed task")
    second = _write(api, slug="joan")
    running.await_event("push.blocked", count=2)

    assert remote.head() == theirs
    assert blocked["reason"] == "non-fast-forward"
    assert (blocked["ahead"], blocked["behind"]) == (1, 1)
    assert (blocked["local_head"], blocked["remote_head"]) == (first, theirs)
    assert not running.events("push.retry_scheduled")
    status = _status(api)
    assert (status["state"], status["pending_commits"]) == ("blocked", 2)
    assert status["last_error"]["reason"] == "non-fast-forward"

    (page,) = wait_until(lambda: sentry.events, what="the page")
    running.stop()
    assert page["level"] == "fatal"
    assert {name: page["tags"][name] for name in ("remote", "branch", "reason")} == {
        "remote": "origin",
        "branch": "main",
        "reason": "non-fast-forward",
    }
    known_as = env["CFP_DATA_REMOTE"].removesuffix(".git")
    where = [env["CFP_DATA_REPO_PATH"], known_as]
    assert page["fingerprint"] == ["ferry", "push", "non-fast-forward", "origin", "main", *where]
    assert page["tags"]["repository"] == known_as
    context = page["contexts"]["push"]
    assert (context["local_head"], context["remote_head"]) == (first, theirs)
    assert (context["ahead"], context["behind"]) == (1, 1)
    assert context["way_out"]
    assert second == api.get("/api/commits?limit=1").json["commits"][0]["hash"]


def test_pushing_resumes_by_itself_when_the_remote_can_be_fast_forwarded_again(client, worker, remote):
    api, running = client(), worker()
    wait_until(lambda: _status(api)["state"] == "idle")
    ours = remote.head()
    remote.commit("theirs")
    _write(api)
    running.await_event("push.blocked")

    remote.git("update-ref", "refs/heads/main", ours)
    commit = _write(api, slug="joan")

    wait_until(lambda: remote.head() == commit, what="the commit on the remote")
    assert running.await_event("push.recovered")["reason"] == "non-fast-forward"
    wait_until(lambda: _status(api)["last_error"] is None, what="a status without an error")


def test_a_start_pushes_the_backlog(data, remote, worker):
    """
    Nobody sends a task: the worker compares the refs when it starts.
    """
    commit = data.commit("made while nothing ran")
    worker()
    wait_until(lambda: remote.head() == commit, what="the backlog on the remote")


def test_the_api_queues_the_backlog_at_its_start(worker, client, data, remote):
    running = worker()
    running.await_event("push.done")
    commit = data.commit("made behind everybody's back")

    client()

    wait_until(lambda: remote.head() == commit, what="the backlog on the remote")


def test_nothing_is_pushed_when_nothing_is_ahead(client, worker, remote, tmp_path):
    """
    An operator has the remote asked where it stands; the task of a commit starts no process at all.
    """
    bin_path, calls = tmp_path / "bin", tmp_path / "calls"
    _spy_on_git(bin_path, calls)
    api, running = client(), worker(PATH=f"{bin_path}:{os.environ['PATH']}")
    running.await_event("push.done")
    assert "push --porcelain" in calls.read_text()
    wait_until(lambda: "succeeded" in running.text())
    before = calls.read_text()

    assert api.post("/api/_internal/push").status_code == 202

    wait_until(lambda: "already there" in running.text(), what="a task that found nothing to do")
    asked = calls.read_text().removeprefix(before).splitlines()
    assert [line for line in asked if "ls-remote" not in line] == []
    before = calls.read_text()
    pipeline = build(running.env, publisher=True)
    send_push(pipeline.celery, "origin", str(remote.head()))
    wait_until(lambda: running.text().count("already there") == 2, what="another one")
    assert calls.read_text() == before


def test_an_unreachable_remote_keeps_the_api_usable_and_is_retried_with_growing_delays(
    client, worker, remote, tmp_path
):
    """
    Each wait is longer than the last until the cap; what was written meanwhile
    arrives when the remote is back.
    """
    away = remote.path.rename(tmp_path / "away.git")
    api, running = client(), worker()
    running.await_event("push.retry_scheduled", count=5)

    commit = _write(api)
    status = _status(api)
    assert status["state"] in ("retrying", "pushing")
    assert status["last_error"]["reason"] == "not-found"
    delays = [event["next_delay_ms"] for event in running.events("push.retry_scheduled")]
    assert [event["attempt"] for event in running.events("push.retry_scheduled")][:5] == [1, 2, 3, 4, 5]
    for ceiling, delay in zip([200, 400, 800, 1600, 1600], delays, strict=False):
        assert ceiling / 2 <= delay <= ceiling
    assert all(low < high for low, high in itertools.pairwise(delays[:4]))

    away.rename(remote.path)
    wait_until(lambda: remote.head() == commit, what="the commit on the remote")


def test_retries_end_at_their_maximum_and_the_next_commit_tries_afresh(client, worker, remote, tmp_path, env):
    env["CFP_PUSH_MAX_RETRIES"] = "2"
    away = remote.path.rename(tmp_path / "away.git")
    api, running = client(), worker()

    blocked = running.await_event("push.blocked")
    assert blocked["attempt"] == 3
    assert len(running.events("push.retry_scheduled")) == 2
    wait_until(lambda: _status(api)["state"] == "blocked", what="a remote that is blocked")

    away.rename(remote.path)
    commit = _write(api)
    wait_until(lambda: remote.head() == commit, what="the commit on the remote")


def test_sigterm_during_a_push_lets_it_finish(client, worker, remote, tmp_path):
    """
    A warm shutdown: the push that runs completes, and the worker ends with status 0.
    """
    started, go_on = tmp_path / "started", tmp_path / "go-on"
    api, running = client(), worker()
    wait_until(lambda: _status(api)["state"] == "idle")
    remote.hook("pre-receive", f"touch {started}; while [ ! -e {go_on} ]; do sleep 0.05; done")
    commit = _write(api)
    wait_until(started.exists, what="a push in the middle")

    running.signal(signal.SIGTERM)
    wait_until(lambda: "Warm shutdown" in running.text() or running.ended())
    go_on.touch()

    assert running.wait() == 0
    assert remote.head() == commit
    assert running.events("push.done")[-1]["commit"] == commit


def test_a_task_hands_over_to_the_push_that_runs_and_its_commit_still_goes(client, worker, remote, tmp_path):
    """
    While one push is held up, the tasks of later commits end at once, and their
    commits go with the next push of the same task.
    """
    started, go_on = tmp_path / "started", tmp_path / "go-on"
    api, running = client(), worker()
    wait_until(lambda: _status(api)["state"] == "idle")
    remote.hook("pre-receive", f"touch {started}; while [ ! -e {go_on} ]; do sleep 0.05; done")
    _write(api)
    wait_until(started.exists, what="a push in the middle")

    commits = [_write(api, slug=f"joan-{number}") for number in range(5)]
    wait_until(lambda: running.text().count("handed over") >= 5, what="five tasks that hand over")
    assert _status(api)["state"] == "pushing"
    go_on.touch()

    wait_until(lambda: remote.head() == commits[-1], what="the last commit on the remote")
    assert running.await_event("push.done", count=3)["commits"] == 5


def test_a_divergence_keeps_our_commits_safe_on_a_rescue_branch(client, worker, beat, remote, sentry):
    """
    The local head goes to a new branch of the remote and is brought forward with later commits;
    sweeps look without pushing at the branch, and pushing resumes when it can be fast-forwarded.
    """
    api, running = client(), worker(SENTRY_DSN=sentry.dsn)
    wait_until(lambda: _status(api)["state"] == "idle")
    ours = remote.head()
    theirs = remote.commit("theirs")

    first = _write(api)
    rescued = running.await_event("push.rescued")
    assert re.fullmatch(r"rescue/main-\d{8}T\d{6}Z", rescued["branch"])
    assert remote.git("rev-parse", rescued["branch"]) == first
    wait_until(lambda: sentry.events, what="the page")
    assert sentry.events[0]["contexts"]["push"]["rescue_branch"] == rescued["branch"]
    wait_until(lambda: running.logged("raised expected"), what="the end of the failed task")
    second = _write(api, slug="joan")
    wait_until(lambda: remote.git("rev-parse", rescued["branch"]) == second, what="the rescue branch")
    assert _status(api)["rescue_branch"] == rescued["branch"]

    running.await_event("push.blocked", count=2)
    blocked = len(running.events("push.blocked"))
    beat(CFP_PUSH_SWEEP_INTERVAL="1")
    wait_until(lambda: running.text().count("looked: ") >= 2, what="two looks")
    assert remote.head() == theirs
    assert len(running.events("push.blocked")) == blocked

    remote.git("update-ref", "refs/heads/main", ours)
    wait_until(lambda: remote.head() == second, what="everything on the remote")
    wait_until(lambda: _status(api)["rescue_branch"] is None)
    assert len(sentry.events) == 1


def test_no_rescue_branch_where_it_is_turned_off(client, worker, env, remote):
    env["CFP_PUSH_RESCUE"] = "off"
    api, running = client(), worker()
    wait_until(lambda: _status(api)["state"] == "idle")
    remote.commit("theirs")
    _write(api)
    running.await_event("push.blocked")
    assert remote.git("for-each-ref", "--format=%(refname)") == "refs/heads/main"


def test_a_pipeline_without_a_worker_is_paged_for_by_the_api_once(client, worker, env, remote, sentry):
    """
    Two API processes look, one page is sent; the worker's first push ends the episode.
    """
    env |= {"CFP_PUSH_SWEEP_INTERVAL": "0.5", "SENTRY_DSN": sentry.dsn}
    api, _another = client(), client()
    commit = _write(api)

    wait_until(lambda: sentry.events, what="the page")
    (page,) = sentry.events
    assert (page["level"], page["tags"]["reason"], page["tags"]["remote"]) == ("fatal", "stalled", "origin")
    status = _status(api)
    assert status["last_error"]["reason"] == "stalled"
    assert status["pending_commits"] == 3

    running = worker()
    wait_until(lambda: remote.head() == commit, what="the commit on the remote")
    assert running.await_event("push.recovered")["reason"] == "stalled"
    assert len(sentry.events) == 1


def test_a_worker_that_was_stopped_in_the_middle_of_a_push_is_paged_for_once(
    client, worker, env, remote, sentry, tmp_path
):
    """
    It holds the remote, and will not let go of it; when it goes on, the episode ends.
    """
    started = tmp_path / "started"
    env |= {"CFP_PUSH_SWEEP_INTERVAL": "0.5", "CFP_PUSH_TIMEOUT": "1"}
    running = worker()
    env["SENTRY_DSN"] = sentry.dsn  # the API's alone: the worker says nothing any more
    api = client()
    wait_until(lambda: _status(api)["state"] == "idle", what="the first push")
    remote.hook("pre-receive", f"touch {started}; sleep 60")
    _write(api)
    wait_until(started.exists, what="a push in the middle")
    stopped = [psutil.Process(running.pid), *running.children()]
    for process in stopped:
        process.suspend()
    try:
        wait_until(lambda: sentry.events, what="the page")
        (page,) = sentry.events
        assert (page["level"], page["tags"]["reason"]) == ("fatal", "stalled")
        assert "process " in page["contexts"]["push"]["what_git_said"]
        metrics = api.get("/metrics").get_data(as_text=True)
        assert sample(metrics, "ferry_push_episodes_total", reason="stalled", remote="origin") == 1
    finally:
        remote.hook("pre-receive", "exit 0")
        for process in reversed(stopped):
            process.resume()
    wait_until(lambda: _status(api)["state"] == "idle", what="an idle remote")
    wait_until(lambda: _status(api)["last_error"] is None, what="the episode's end")
    assert len(sentry.events) == 1


def test_an_episode_that_somebody_else_ended_is_closed(client, worker, beat, remote, data, sentry):
    """
    An operator pushes by hand what was refused: the failure is forgotten, and the next divergence pages anew.
    """
    api, running = client(), worker(SENTRY_DSN=sentry.dsn)
    beat()
    wait_until(lambda: _status(api)["state"] == "idle")
    ours = remote.head()
    remote.commit("theirs")
    commit = _write(api)
    running.await_event("push.blocked")
    wait_until(lambda: sentry.events, what="the page")

    remote.git("update-ref", "refs/heads/main", ours)
    data.git("push", "-q", str(remote.path), "main")
    data.git("update-ref", "refs/remotes/origin/main", commit)

    assert running.await_event("push.recovered")["reason"] == "non-fast-forward"
    wait_until(lambda: _status(api)["last_error"] is None)
    remote.commit("theirs again")
    _write(api, slug="joan")
    wait_until(lambda: len(sentry.events) == 2, what="a second page")


def test_without_a_remote_commits_stay_local_and_the_log_says_so(client, worker, env):
    del env["CFP_DATA_REMOTE"]
    api, running = client(), worker()

    response = api.post("/api/sheets/people/records", json=JANE)

    assert response.json["commit"]["push"] == {}
    running.await_event("push.disabled")
    assert _status(api)["state"] == "disabled"


def test_a_mirror_is_pushed_beside_origin(client, worker, env, remote, tmp_path):
    mirror = Bare.init(tmp_path / "mirror.git")
    env["CFP_DATA_MIRRORS"] = f"backup={mirror.path}"
    api = client()
    worker()

    commit = _write(api)

    wait_until(lambda: remote.head() == mirror.head() == commit, what="the commit on both remotes")
    both = {"origin": "pushed", "backup": "pushed"}
    wait_until(lambda: api.get(f"/api/commits/{commit}").json["push"] == both, what="a commit that is pushed")


def _spy_on_git(directory: Path, calls: Path) -> None:
    directory.mkdir()
    spy = directory / "git"
    spy.write_text(f'#!/bin/sh\necho "$@" >> {calls}\nexec {shutil.which("git")} "$@"\n')
    spy.chmod(spy.stat().st_mode | stat.S_IEXEC)


# --- A remote that is another one ---


def test_a_new_address_gets_everything_without_a_request(client, worker, env, remote, data, tmp_path):
    """
    What was seen at the old address says nothing of the new one.
    """
    client()
    running = worker()
    wait_until(lambda: remote.head() == data.head(), what="the first push")
    running.stop()
    elsewhere = Bare.init(tmp_path / "elsewhere.git")
    env["CFP_DATA_REMOTE"] = str(elsewhere.path)
    api = client()
    assert _status(api)["pending_commits"] > 0
    worker()
    wait_until(lambda: elsewhere.head() == data.head(), what="everything at the new address")


@pytest.mark.parametrize("at", ["a start", "a sweep"])
def test_a_remote_that_was_made_anew_is_filled_again(client, worker, beat, env, remote, data, at):
    """
    Nobody writes and nobody tells us: a look at each start, and one now and then, finds it.
    """
    api, running = client(), worker()
    wait_until(
        lambda: _status(api)["state"] == "idle" and remote.head() == data.head(), what="the first push"
    )
    if at == "a start":
        running.stop()
    shutil.rmtree(remote.path)
    Bare.init(remote.path)
    if at == "a start":
        running.spawn()
    else:
        ledger = Ledger(remotes_directory(data.path))
        with ledger.claim_within("origin", 10) as claim:
            claim.write(looked_at=time.time() - 3600)
        beat()
    wait_until(lambda: remote.head() == data.head(), what="everything on the new repository")
    assert running.await_event("remote.moved")["found"] is None


def test_a_remote_that_was_set_back_is_brought_forward_again(client, worker, remote, data):
    _, running = client(), worker()
    data.commit("one more")
    running.stop()
    running.spawn()
    wait_until(lambda: remote.head() == data.head(), what="the first push")
    running.stop()
    remote.git("update-ref", "refs/heads/main", "main~1")
    running.spawn()
    wait_until(lambda: remote.head() == data.head(), what="what the backup lacked")
