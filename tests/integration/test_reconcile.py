"""
Reconciling as people meet it: by a command, by a webhook, and by itself where the settings say so.
"""

from __future__ import annotations

import json
import subprocess
from unittest import mock

import pytest

from ferry.app import create_app
from ferry.worker.enqueue import PushQueue
from tests.pages import Browser
from tests.parts import Bare, wait_until


def _write(api, slug="jane", **record):
    answer = api.put(f"/api/sheets/people/records/{slug}", json={"slug": slug, "name": "Jane", **record})
    assert answer.status_code in (200, 201), answer.text
    return answer.json["commit"]["hash"]


def _level(api, remote):
    """
    Return once both sides are level.
    """
    api.post("/api/_internal/push")
    wait_until(lambda: _status(api)["state"] == "idle", what="both sides level")


def _status(api):
    return api.get("/api/_internal/push").json["remotes"]["origin"]


@pytest.fixture
def elsewhere(remote, tmp_path):
    """
    Write a record into the remote, as somebody with a clone of it does.
    """

    def write(slug: str, text: str) -> str:
        clone = tmp_path / "clone"
        if not clone.exists():
            subprocess.run(["git", "clone", "-q", str(remote.path), str(clone)], check=True)
        git = Bare(clone).git
        git("pull", "-q", "--ff-only", "origin", "main")
        (clone / "people" / f"{slug}.toml").write_text(text)
        git("add", ".")
        git("commit", "-qm", f"Edit {slug} by hand")
        git("push", "-q", "origin", "HEAD:main")
        return git("rev-parse", "HEAD")

    return write


def test_an_operator_joins_both_sides_while_all_runs(env, client, worker, remote, elsewhere, ferry):
    """
    Page, look, reconcile: pushing resumes by itself, and the next divergence pages again.
    """
    env["CFP_PUSH_SWEEP_INTERVAL"] = "15"  # no commit has stalled, however slowly the worker starts
    api, running = client(), worker()
    _level(api, remote)
    theirs = elsewhere("joe", 'name = "Joe"\nslug = "joe"\n')
    ours = _write(api)
    running.await_event("push.blocked")
    shown = ferry("push", "status")
    assert shown.returncode == 1
    assert "origin: blocked" in shown.stdout

    planned = ferry("reconcile", "--dry-run")
    assert planned.returncode == 0, planned.stderr
    assert planned.stdout.startswith("main and origin: One merge commit would join both sides.")
    assert "Stranger <stranger@example.org>" in planned.stdout
    done = ferry("reconcile", "--json")
    assert done.returncode == 0, done.stderr
    answer = json.loads(done.stdout)
    assert (answer["state"], answer["ahead"], answer["behind"]) == ("merged", 1, 1)

    assert running.await_event("push.recovered")["reason"] == "non-fast-forward"
    assert remote.head() == answer["local_head"]
    assert remote.has(ours)
    assert remote.has(theirs)
    assert api.get("/api/sheets/people/records/joe").json["record"]["name"] == "Joe"
    assert ferry("push", "status").returncode == 0


def test_a_conflict_ends_with_status_1_and_names_the_field(client, worker, remote, elsewhere, ferry):
    api, running = client(), worker()
    _level(api, remote)
    elsewhere("jane", 'email = "theirs@example.org"\nname = "Jane"\nslug = "jane"\n')
    _write(api, email="ours@example.org")
    running.await_event("push.blocked")
    done = ferry("reconcile")
    assert done.returncode == 1
    assert "conflict: people/jane.toml:email" in done.stdout
    assert "Nothing was changed." in done.stdout
    for option in ("--take people/jane.toml:email=ours", "--rest ours", "--rest theirs"):
        assert f"    ferry reconcile --remote origin {option}\n" in done.stdout
    told = ferry("push", "history").stdout
    assert "not-reconciled by" in told
    assert ": merge: nothing was changed: both sides changed people/jane.toml:email\n" in told
    shown = ferry("reconcile", "--dry-run", "--take", "people/jane.toml:email=theirs").stdout
    assert "would join both sides" in shown
    assert "result theirs@example.org" in " ".join(shown.replace('"', "").split())
    taken = ferry("reconcile", "--rest", "theirs", "--json")
    assert json.loads(taken.stdout)["state"] == "merged"
    assert " reconciled by" in ferry("push", "history").stdout
    wait_until(
        lambda: remote.head() == json.loads(taken.stdout)["local_head"], what="the merge on the remote"
    )
    assert api.get("/api/sheets/people/records/jane").json["record"]["email"] == "theirs@example.org"


@pytest.mark.parametrize(
    ("options", "said"),
    [
        (("--take", "people/jane.toml:email"), "is not PATH[:FIELD]=ours"),
        (
            ("--take", "a=ours", "--strategy", "preserve"),
            "--take and --rest decide the conflicts of --strategy",
        ),
        (("--rest", "ours", "--strategy", "rebase"), "--take and --rest decide the conflicts of --strategy"),
        (("--rest", "both"), "'both' is not one of 'ours', 'theirs'"),
    ],
)
def test_what_cannot_be_taken_is_a_wrong_use(ferry, options, said):
    done = ferry("reconcile", *options)
    assert (done.returncode, said in done.stderr) == (2, True), done.stderr


def test_a_remote_that_is_not_configured_is_named(ferry):
    assert ferry("reconcile", "--remote", "nowhere").stderr.startswith("ferry: no remote 'nowhere'")


def test_the_page_is_a_dossier(client, worker, sentry, remote, elsewhere):
    api, _ = client(), worker(SENTRY_DSN=sentry.dsn)
    _level(api, remote)
    base = remote.head()
    theirs = elsewhere("jane", 'name = "Joe"\nslug = "jane"\n')
    ours = _write(api)
    wait_until(lambda: sentry.events, what="the page")
    found = sentry.events[0]["contexts"]["push"]

    assert found["reason"] == "non-fast-forward"
    assert (found["local_head"], found["remote_head"], found["merge_base"]) == (ours, theirs, base)
    assert (found["ahead"], found["behind"]) == (1, 1)
    assert found["foreign_authors"] == ["Stranger <stranger@example.org>"]
    assert found["foreign_commits"] == [f"{theirs[:12]} Edit jane by hand"]
    assert found["touched_by_both"] == ["people/jane.toml"]
    assert found["rescue_branch"].startswith("rescue/main-")
    assert found["oldest_pending_commit"] == ours
    assert 0 <= found["oldest_pending_seconds"] < 60
    assert found["attempts"] == 1
    assert "fetch first" in found["what_git_said"]
    assert found["commands"][0] == "ferry reconcile --remote origin --dry-run"


def test_auto_joins_what_does_not_conflict_without_a_page(client, worker, sentry, env, remote, elsewhere):
    env["CFP_DATA_RECONCILE"] = "auto"
    api, running = client(), worker(SENTRY_DSN=sentry.dsn)
    _level(api, remote)
    theirs = elsewhere("joe", 'name = "Joe"\nslug = "joe"\n')
    ours = _write(api)
    wait_until(lambda: remote.has(ours), what="our commit on the remote")
    assert remote.has(theirs)
    assert running.await_event("reconcile.done")["state"] == "merged"
    assert running.events("push.blocked") == []
    assert sentry.events == []


def test_auto_pages_where_both_changed_the_same_field(client, worker, sentry, env, remote, elsewhere):
    env["CFP_DATA_RECONCILE"] = "auto"
    api, running = client(), worker(SENTRY_DSN=sentry.dsn)
    _level(api, remote)
    theirs = elsewhere("jane", 'email = "theirs@example.org"\nname = "Jane"\nslug = "jane"\n')
    ours = _write(api, email="ours@example.org")
    assert running.await_event("push.blocked")["local_head"] == ours
    wait_until(lambda: sentry.events, what="the page")
    assert remote.head() == theirs


@pytest.mark.parametrize("mode", ["manual", "boot"])
def test_a_start_joins_where_the_settings_want_that(client, worker, env, remote, elsewhere, mode):
    env["CFP_DATA_RECONCILE"] = mode
    api, running = client(), worker()
    _level(api, remote)
    running.stop()
    theirs = elsewhere("joe", 'name = "Joe"\nslug = "joe"\n')
    ours = _write(api)
    running.spawn()
    if mode == "manual":
        running.await_event("push.blocked")
        assert remote.head() == theirs
    else:
        wait_until(lambda: remote.has(ours) and remote.has(theirs), what="both on the remote")


def test_the_branches_that_ferry_made_are_listed_and_removed_when_an_operator_says_so(
    env, ferry, data, remote
):
    base, rescued, lacking = data.head(), "rescue/main-20261127T101112Z", "conflicts/20261127T101112Z"
    data.git("push", "-q", str(remote.path), "main", f"main:refs/heads/{rescued}")
    for bare in (data, remote):
        bare.git("update-ref", f"refs/heads/{lacking}", bare.git("commit-tree", "-m", "else", "main^{tree}"))
    shown = ferry("branches")
    assert shown.returncode == 0, shown.stderr
    assert f"{rescued} on origin is at {base}: main contains it" in shown.stdout
    assert f"{lacking} here is at" in shown.stdout
    assert ferry("branches", "--remove").returncode == 1, "nothing was said to the question"
    assert remote.git("rev-parse", rescued) == base

    browser = Browser(create_app(env, open_access=True).test_client())
    page = browser.open("/status/branches")
    assert f"{rescued} on origin {base[:10]} all in main" in page.text
    assert f"{lacking} here" in page.text
    removed = browser.press(page, "Remove the branches that are all in main")
    assert f"Removed {rescued} on origin." in removed.text
    assert "refs/heads/rescue" not in remote.git("for-each-ref")
    assert ferry("branches", "--remove", "--yes", "--json").stdout.count(lacking) == 2


# --- The webhook ---


def _reload(api, **body):
    return api.post("/api/_internal/reload-data", json=body)


def test_the_webhook_brings_every_process_forward(client, worker, env, remote, elsewhere):
    api, other = client(), client()
    worker()
    _level(api, remote)
    theirs = elsewhere("joe", 'name = "Joe"\nslug = "joe"\n')

    answer = _reload(api, branch="refs/heads/main", commit_hash=theirs)

    assert (answer.status_code, answer.json["state"]) == (200, "fast-forwarded")
    assert answer.json["local_head"] == answer.json["remote_head"] == theirs
    for each in (api, other):
        assert each.get("/api/sheets/people/records/joe").json["record"]["name"] == "Joe"
    assert _reload(api).json["state"] == "in-sync"


def test_what_is_here_already_is_answered_without_the_remote(client, data, remote, tmp_path):
    api = client()
    remote.path.rename(tmp_path / "away.git")
    assert _reload(api, commit_hash=data.head()).json["state"] == "in-sync"
    for length in (7, 12, 39):
        assert _reload(api, commit_hash=data.head()[:length]).json["state"] == "in-sync"
    assert _reload(api, commitHash=data.head()[:7].upper()).json["state"] == "in-sync"
    assert _reload(api, branch="other").json["state"] == "ignored"
    tree = data.git("rev-parse", "main^{tree}")
    for unknown in ("1" * 7, tree[:7], tree, data.head()[:6]):
        assert _reload(api, commit_hash=unknown).status_code == 502
    failed = _reload(api, commit_hash="1" * 40)
    assert (failed.status_code, failed.json["code"]) == (502, "fetch-failed")


def test_the_webhook_leaves_a_divergence_to_people(client, worker, env, remote, elsewhere):
    api, _ = client(), worker()
    _level(api, remote)
    elsewhere("joe", 'name = "Joe"\nslug = "joe"\n')
    ours = _write(api)
    answer = _reload(api)
    assert (answer.status_code, answer.json["code"]) == (409, "diverged")
    assert (answer.json["ahead"], answer.json["behind"]) == (1, 1)
    assert "ferry reconcile" in answer.json["hint"]
    assert answer.json["local_head"] == ours

    # Made while somebody held the remote's claim without pushing, such as for this answer.
    queued = []
    with mock.patch.object(PushQueue, "enqueue_push", lambda self, commit, **_: queued.append(commit)):
        assert _reload(api).status_code == 409
    assert queued == [ours]

    env["CFP_DATA_RECONCILE"] = "auto"
    assert _reload(client()).json["state"] == "merged"
    wait_until(lambda: remote.has(ours), what="our commit on the remote")


def test_the_webhook_takes_its_secret_and_no_other(env):
    def post(app, token):
        return app.post(
            "/api/_internal/reload-data", headers={"Authorization": f"Bearer {token}"}
        ).status_code

    closed = create_app(env).test_client()
    assert closed.post("/api/_internal/reload-data").status_code == 503
    app = create_app(
        {**env, "CFP_DATA_RELOAD_SECRET": "s3cret", "CFP_ADMIN_TOKEN": "an-admin-token-of-some-length"}
    ).test_client()
    assert app.post("/api/_internal/reload-data").status_code == 401
    assert post(app, "an-admin-token-of-some-length") == 401
    assert post(app, "s3cret") == 200


@pytest.mark.parametrize(
    "body",
    [
        [],
        "main",
        {"branch": 7},
        {"branch": ""},
        {"commit_hash": "main"},
        {"commit_hash": "abc"},
        {"commitHash": "f" * 41},
        {"commit_hash": None, "branch": []},
    ],
)
def test_a_wrong_body_is_named(client, body):
    answer = client().post("/api/_internal/reload-data", json=body)
    assert (answer.status_code, answer.json["code"]) == (400, "body-invalid")


def test_a_body_that_is_no_json_is_refused(client):
    assert client().post("/api/_internal/reload-data", data="{").status_code == 400
