"""
A replica reads, follows origin, and neither writes nor pushes.
"""

from __future__ import annotations

import hashlib
import json
import re
import threading
import time
from types import SimpleNamespace

import pytest
from structlog.testing import capture_logs

from ferry.app import create_app
from ferry.app.replica.following import Following
from ferry.app.replica.level import _state as level_of
from ferry.app.status_page.sessions import _EXTENSION, COOKIE
from ferry.worker.bootstrap import build
from ferry.worker.errors import ReconcileError, RepositoryError, SettingsError
from ferry.worker.follow import LEVEL
from ferry.worker.git.backlog import Backlog
from ferry.worker.git.remote import Remote
from ferry.worker.push import REPLICA, Request
from ferry.worker.settings import Settings
from tests.integration.test_server import PEOPLE, _start
from tests.pages import Browser
from tests.parts import sample, wait_until

PRIMARY = "https://records.town.example/ferry"
COMMIT, AT_LEAST = "X-Ferry-Commit", "X-Ferry-At-Least"


@pytest.fixture
def replica(replica_env, monkeypatch):
    """
    Make a client of a replica in this process, which follows when it is told to.
    """
    monkeypatch.setattr(Following, "start", lambda following: None)
    return lambda **more: create_app({**replica_env, **more}, open_access=True).test_client()


def test_a_replica_needs_a_remote_and_no_broker(env):
    alone = {**env, "CFP_API_ROLE": "replica"}
    assert Settings.from_env({**alone, "CFP_REDIS_URL": ""}).is_replica
    with pytest.raises(SettingsError, match="CFP_API_ROLE: a replica follows CFP_DATA_REMOTE"):
        Settings.from_env({**alone, "CFP_DATA_REMOTE": ""})
    with pytest.raises(SettingsError, match="CFP_REDIS_URL: required"):
        Settings.from_env({**env, "CFP_REDIS_URL": ""})
    with pytest.raises(SettingsError, match="CFP_API_ROLE: must be one of primary, replica"):
        Settings.from_env({**env, "CFP_API_ROLE": "secondary"})


@pytest.mark.parametrize(
    ("method", "path"),
    [
        ("POST", PEOPLE),
        ("PUT", f"{PEOPLE}/jane"),
        ("PATCH", f"{PEOPLE}/jane?pretty=a%26b"),
        ("DELETE", f"{PEOPLE}/j%C3%A4ne%20doe"),
        ("PUT", f"{PEOPLE}/jane/attachments/a.txt"),
        ("POST", "/api/transactions"),
        ("POST", "/api/_internal/push"),
    ],
)
def test_a_write_is_sent_to_the_primary_or_refused(replica, copy, method, path):
    head = copy.head()

    sent = replica(CFP_API_PRIMARY_URL=PRIMARY).open(path, method=method, json={"slug": "jane"})
    assert (sent.status_code, sent.headers["Location"]) == (307, f"{PRIMARY}{path}")

    refused = replica().open(path, method=method, json={"slug": "jane"})
    assert (refused.status_code, refused.json["code"]) == (403, "read-only-replica")
    assert "CFP_API_PRIMARY_URL" in refused.json["hint"]
    assert copy.head() == head


def test_a_replica_reads_and_says_how_far_behind_it_may_be(replica, replica_env, copy):
    api = replica()
    assert api.get(PEOPLE).headers[COMMIT] == copy.head()
    assert sample(api.get("/metrics").text, "ferry_replica_lag_seconds") == 0  # there is none yet
    assert "ferry_replica_lag_seconds{" not in api.get("/metrics").text
    assert "which has not had all of origin yet" in api.get("/status").text

    Following(build(replica_env, publisher=True)).once()

    assert "ferry_replica_lag_seconds{" in api.get("/metrics").text
    assert "This is a replica: it has all of origin." in api.get("/status").text
    assert "ferry_sweep_late{" in api.get("/metrics").text
    assert sample(api.get("/metrics").text, "ferry_sweep_late") == 0


def test_the_page_shows_what_a_replica_has_and_no_part_of_a_primary(replica, replica_env, there, copy):
    api = Browser(replica(CFP_API_PRIMARY_URL=PRIMARY))
    commit = there.commit("from elsewhere")
    Following(build(replica_env, publisher=True)).once()

    page = api.open()
    for told in (
        "Follows origin ✓ level", f"Origin {there.path}, branch main", f"At commit {commit[:10]}",
        f"Primary {PRIMARY} , which gets the writes", "Its events ! away", "from elsewhere",
    ):  # fmt: skip
        assert told in page.text
    assert re.search(r"Had all of origin [\d.]+ s ago", page.text)
    assert re.search(r"Origin seen [\d.]+ s ago (At|Primary)", page.text)
    for foreign in ("Broker", "Worker", "Beat", "Last push", "pushed", "Remotes", "Kept branches"):
        assert foreign not in page.text
    assert page.forms == []
    assert "received 1 commit by" in re.sub(r"\s+", " ", api.open("/status/history").text)
    assert "not known (CFP_API_PRIMARY_URL): writes are refused" in Browser(replica()).open().text


@pytest.mark.parametrize("form", ["push", "pause", "reconcile"])
def test_a_form_that_is_sent_to_a_replica_changes_nothing(replica, copy, form):
    api = replica(CFP_API_PRIMARY_URL=PRIMARY)
    api.get("/status")
    sessions, cookie = api.application.extensions[_EXTENSION], api.get_cookie(COOKIE, path="/status")
    carried = {"form_token": sessions.form_token(sessions.read(cookie.value)), "remote": "origin"}
    refused = api.post(f"/status/{form}", data=carried)
    assert (refused.status_code, refused.json["code"]) == (403, "read-only-replica")
    assert f"{PRIMARY}/status" in refused.json["hint"]


def test_status_and_command_tell_how_far_a_replica_is(replica, replica_env, ferry, there, copy):
    following, api = Following(build(replica_env, publisher=True)), replica()

    def told():
        shown = api.get("/api/_internal/push").json
        said = ferry("push", "status", **replica_env)
        assert said.returncode == 0, said.stderr
        assert f"replica: {shown['replica']['state']}\n" in said.stdout
        return shown["replica"]

    assert (told()["state"], told()["lag_seconds"]) == ("late", None)
    commit = there.commit("from elsewhere")
    following.once()
    level = told()
    assert (level["state"], level["commit"], level["primary_stream"]) == ("level", commit, None)
    assert level["lag_seconds"] < 60
    assert ferry("push", "pause", **replica_env).returncode == 0
    assert told()["state"] == "paused"
    assert ferry("push", "now", **replica_env).stderr.startswith("ferry: this is a replica")
    assert ferry("push", "resume", **replica_env).returncode == 0
    copy.commit("by hand, here")
    assert told()["state"] == "apart"


@pytest.mark.parametrize(
    ("interval_s", "lag_s", "behind", "state"),
    [
        (60, 170, 0, "level"),
        (60, 190, 0, "late"),
        (1, 14, 0, "level"),
        (0, 9000, 0, "level"),
        (60, 5, 2, "behind"),
    ],
)
def test_a_replica_is_late_after_three_looks(interval_s, lag_s, behind, state):
    status = SimpleNamespace(state="idle", pending=Backlog(log=None, behind=behind), remote_head="0" * 40)
    assert level_of(status, lag_s, interval_s) == state


def test_a_replica_takes_over_what_origin_has_and_pushes_nothing(replica_env, there, copy):
    pipeline = build({**replica_env, "CFP_DATA_RECONCILE": "auto"}, publisher=True)
    commit = there.commit("from elsewhere")

    assert Following(pipeline).once() == f"fast-forwarded: {commit}"
    assert copy.head() == commit

    copy.commit("by hand, here")
    assert pipeline.sweeper.sweep() == {}
    assert pipeline.pusher.push(Request(remote="origin", chain="a task")) == REPLICA
    with pytest.raises(RepositoryError, match="pushes nothing"):
        Remote(pipeline.repository, "origin", timeout_s=20).push(str(copy.head()))
    there.commit("from elsewhere, too")
    with pytest.raises(ReconcileError, match="only ever fast-forwarded"):
        pipeline.reconciler.reconcile("origin", "merge")
    assert there.git("for-each-ref", "--format=%(refname)") == "refs/heads/main"


def test_the_webhook_brings_a_replica_forward(replica, there, copy):
    commit = there.commit("from elsewhere")

    answer = replica(CFP_DATA_RECONCILE="auto").post("/api/_internal/reload-data")

    assert (answer.status_code, answer.json["local_head"]) == (200, commit)
    assert copy.head() == commit


def test_a_hosts_webhook_wakes_the_process_that_follows(replica, replica_env, there, copy):
    """
    Whichever process it reaches, and without a broker.
    """
    following = Following(build({**replica_env, "CFP_DATA_FOLLOW_INTERVAL": "3600"}, publisher=True))
    commit = there.commit("from elsewhere")

    answer = replica().post(
        "/api/_internal/reload-data",
        json={"ref": "refs/heads/main", "after": commit},
        headers={"X-GitHub-Event": "push"},
    )

    assert (answer.status_code, answer.json["state"]) == (202, "queued")
    following.wait()
    following.once()
    assert copy.head() == commit


def test_a_replica_never_lists_mirrors(replica_env, tmp_path):
    mirrored = {**replica_env, "CFP_DATA_MIRRORS": f"backup={tmp_path}/backup.git"}
    assert list(Settings.from_env(mirrored).remotes) == ["origin"]


def test_doctor_finds_a_replica_healthy_without_worker_and_broker(ferry, replica_env):
    done = ferry("doctor", "--json", **replica_env)

    found = [json.loads(line) for line in done.stdout.splitlines()]
    assert {each["state"] for each in found} <= {"ok", "warning"}, found
    assert {"worker", "sweep", "broker"}.isdisjoint(each["name"] for each in found)


def test_a_replica_accepts_its_own_tickets(replica_env, monkeypatch):
    monkeypatch.setattr(Following, "start", lambda following: None)
    token = f"ana:{hashlib.sha256(b't').hexdigest()}"
    app = create_app({**replica_env, "CFP_API_READ": "token", "CFP_API_TOKENS": token})
    api = app.test_client()
    ticket = api.get("/api/events/ticket", headers={"Authorization": "Bearer t"}).json["ticket"]
    answer = api.get("/api/events", query_string={"ticket": ticket})
    answer.close()
    assert answer.status_code == 200


def test_a_write_to_the_primary_is_read_on_a_replica_at_once(env, replica_env, ferry, worker, tmp_path):
    """
    The primary's event stream tells of its push, for the interval alone would take an hour.
    """
    worker()
    primary = _start(env, tmp_path)
    place = tmp_path / "of-the-replica"
    place.mkdir()
    settings = {"CFP_API_PRIMARY_URL": f"http://127.0.0.1:{primary.port}", "CFP_DATA_FOLLOW_INTERVAL": "3600"}
    replica = _start({**replica_env, **settings}, place)
    try:
        for slug in ("jane", "kim"):
            status, body = primary.put(slug)
            assert status == 201, body
            asked = {AT_LEAST: json.loads(body)["commit"]["hash"]}
            path = f"{PEOPLE}/{slug}"
            wait_until(
                lambda path=path, asked=asked: replica.ask(path, timeout_s=30, **asked)[0] == 200, what=slug
            )

        def hears() -> bool:
            said = ferry("push", "status", **replica_env, **settings)
            return f"{settings['CFP_API_PRIMARY_URL']}; its event stream is connected" in said.stdout

        wait_until(hears, what="the stream to be connected")
        primary.end()
        wait_until(lambda: not hears(), what="the end of the stream")
    finally:
        replica.end()
        primary.end()


def test_a_nudge_that_comes_during_a_look_asks_no_broker(replica_env, copy):
    pipeline = build(replica_env, publisher=True)
    with capture_logs() as said, pipeline.ledger.claim("origin") as claim:
        assert claim
        pipeline.ledger.nudge("origin")
    assert said == []
    assert pipeline.follower.is_nudged()


def test_a_packing_that_lasts_delays_no_look(replica_env, there, copy, monkeypatch):
    begun, may_end, runs = threading.Event(), threading.Event(), []

    def pack():
        runs.append(threading.current_thread())
        begun.set()
        assert may_end.wait(60)

    following = Following(build(replica_env, publisher=True))
    maintenance = following._pipeline.maintenance
    monkeypatch.setattr(maintenance, "is_due", lambda: True)
    monkeypatch.setattr(maintenance, "run", pack)
    following.once()
    assert begun.wait(60)
    theirs = there.commit("theirs")
    assert following.once() == f"fast-forwarded: {theirs}"
    assert copy.head() == theirs
    assert len(runs) == 1, "one at a time"
    may_end.set()
    runs[0].join(60)
    assert not runs[0].is_alive()


def test_a_replica_that_cannot_pack_goes_on(replica_env, there, copy, monkeypatch):
    def fail():
        raise RepositoryError("no room")

    following = Following(build(replica_env, publisher=True))
    monkeypatch.setattr(following._pipeline.maintenance, "run", fail)
    with capture_logs() as said:
        following._pack()
    assert [(line["event"], line["error"]) for line in said] == [("replica.not_packed", "no room")]
    assert following.once() == LEVEL


class _Enough(BaseException):
    pass


def _end_after(count, monkeypatch):
    """
    End the loop of the following at its *count*-th pause; returns the pauses, in seconds.
    """
    pauses = []

    def pause(seconds):
        pauses.append(seconds)
        if len(pauses) == count:
            raise _Enough

    # The module's own name alone: to wait for git, subprocess sleeps, too.
    monkeypatch.setattr("ferry.app.replica.following.time", SimpleNamespace(**{**vars(time), "sleep": pause}))
    return pauses


def test_a_look_that_fails_is_tried_again_and_less_and_less_often(replica_env, there, copy, monkeypatch):
    """
    What the primary's stream told of is not forgotten with it.
    """
    pauses = _end_after(7, monkeypatch)
    following = Following(build(replica_env, publisher=True))
    there.path.rename(there.path.with_name("away.git"))
    following._told.set()
    with pytest.raises(_Enough):
        following._go_on()
    assert pauses == [1, 2, 4, 8, 16, 30, 30]
    there.path.with_name("away.git").rename(there.path)
    theirs = there.commit("theirs")
    assert following.once() == f"fast-forwarded: {theirs}"
    assert not following._pipeline.follower.is_nudged()


def test_a_nudge_that_no_look_takes_leaves_the_process_its_processor(replica_env, copy, monkeypatch):
    """
    Another process may hold origin for minutes.
    """
    pauses = _end_after(3, monkeypatch)
    following = Following(build(replica_env, publisher=True))
    monkeypatch.setattr(following, "once", lambda: None)
    following._pipeline.ledger.nudge("origin")
    with pytest.raises(_Enough):
        following._go_on()
    assert min(pauses) >= 1
