"""
Real workers, where git is configured against them, prints without end, or is gone; and where a remote moves.
"""

from __future__ import annotations

import os
import shutil

from tests.parts import Bare, wait_until


def _write(api, number=0):
    slug = f"visitor-{number}"
    answer = api.post("/api/sheets/people/records", json={"slug": slug, "name": slug})
    assert answer.status_code == 201, answer.text
    return answer.json["commit"]["hash"]


def _status(api):
    return api.get("/api/_internal/push").json["remotes"]["origin"]


def _pages(sentry):
    return [event for event in sentry.events if event.get("level") == "fatal"]


def test_no_fetch_refspec_takes_an_acknowledged_commit(client, worker, data, remote, tmp_path):
    """
    git would set the branch back to what the remote had, after each push.
    """
    home = tmp_path / "home"
    home.mkdir()
    api, running = client(), worker(HOME=str(home))
    wait_until(lambda: _status(api)["state"] == "idle")
    refspecs = '[remote "origin"]\n\tfetch = +refs/*:refs/*\n\tfetch = +refs/heads/*:refs/heads/*\n'
    for path in (data.path / "config", home / ".gitconfig"):
        with path.open("a") as config:
            config.write(refspecs)

    commits = [_write(api, number) for number in range(20)]
    wait_until(lambda: _status(api)["state"] == "idle" and _status(api)["local_head"] == commits[-1])

    assert remote.head() == data.head() == commits[-1]
    assert all(data.has(commit) and remote.has(commit) for commit in commits)
    assert not running.events("push.failed")


def test_a_damaged_tracking_ref_stops_neither_writes_nor_pushes(client, worker, data, remote):
    """
    As a power cut on XFS leaves it: nothing is known of the remote until it was asked.
    """
    api, running = client(), worker()
    wait_until(lambda: _status(api)["state"] == "idle")
    running.stop()
    (data.path / "refs/remotes/origin/main").write_bytes(b"\0" * 41)

    commit = _write(api)
    found = _status(api)
    assert (found["state"], found["remote_head"]) == ("queued", None)
    assert api.get("/metrics").status_code == 200
    assert api.get(f"/api/commits/{commit}").json["push"] == {"origin": "pending"}

    running = worker()
    wait_until(lambda: _status(api)["state"] == "idle")
    assert remote.head() == commit == data.git("rev-parse", "refs/remotes/origin/main")
    assert not running.events("push.failed")


def test_a_git_that_is_gone_is_paged_and_pushing_resumes_when_it_is_back(
    client, worker, remote, tmp_path, sentry
):
    git = tmp_path / "bin" / "git"
    git.parent.mkdir()
    git.symlink_to(shutil.which("git") or "")
    api, running = client(), worker(PATH=str(git.parent), SENTRY_DSN=sentry.dsn)
    wait_until(lambda: _status(api)["state"] == "idle")
    git.unlink()

    commit = _write(api)
    failed = running.await_event("push.failed", count=2)
    [page] = wait_until(lambda: _pages(sentry))

    assert failed["reason"] == page["tags"]["reason"] == "local"
    assert "git cannot be started" in failed["error"]
    assert _status(api)["last_error"]["reason"] == "local"

    git.symlink_to(shutil.which("git") or "")
    wait_until(lambda: _status(api)["state"] == "idle")
    assert remote.head() == commit
    running.await_event("push.recovered")
    assert len(_pages(sentry)) == 1


def test_a_hook_that_prints_for_ever_keeps_no_worker_from_stopping(env, client, worker, remote, tmp_path):
    env["CFP_PUSH_TIMEOUT"] = "3"
    remote.hook("pre-receive", f"touch {tmp_path}/began; exec yes 'a line'")
    api, running = client(), worker()
    _write(api)
    wait_until((tmp_path / "began").exists)

    running.stop()

    assert remote.head() is None


def test_a_remote_that_moves_during_a_push_is_not_taken_for_up_to_date(
    env, client, worker, data, remote, tmp_path
):
    """
    The push lands at the old address. A worker with the old settings leaves the new one to one that knows it.
    """
    new = Bare.init(tmp_path / "new.git")
    remote.hook("pre-receive", f"touch {tmp_path}/began; while ! test -e {tmp_path}/go; do sleep 0.02; done")
    api = client()
    commit, old = _write(api), worker()
    wait_until((tmp_path / "began").exists)

    env["CFP_DATA_REMOTE"] = str(new.path)
    api = client()
    (tmp_path / "go").touch()
    old.await_event("push.done")

    assert remote.head() == commit
    assert _status(api)["remote_head"] is None
    assert _status(api)["state"] != "idle"
    later = _write(api, 1)
    old.stop()
    worker()
    wait_until(lambda: _status(api)["state"] == "idle")
    assert new.head() == later == data.head()
    assert remote.head() == commit
    assert not old.events("push.failed")


def test_a_variable_that_names_another_repository_changes_nothing(env, client, worker, remote, tmp_path):
    """
    Nor does it where gitsheets reads and writes in our own process.
    """
    other = Bare.init(tmp_path / "other.git")
    running = worker(
        GIT_DIR=str(other.path), GIT_OBJECT_DIRECTORY=str(other.path / "objects"), GIT_NAMESPACE="town"
    )
    api = client()
    commit = _write(api)
    wait_until(lambda: _status(api)["state"] == "idle")

    assert remote.head() == commit
    assert other.git("for-each-ref") == ""
    assert running.events("environment.ignored")[0]["variables"] == [
        "GIT_DIR",
        "GIT_NAMESPACE",
        "GIT_OBJECT_DIRECTORY",
    ]
    assert "GIT_DIR" not in os.environ
