"""
Commits of others, as they arrive in a whole deployment: by the interval, and by nudges.
"""

from __future__ import annotations

import itertools

from ferry.worker.bootstrap import build
from ferry.worker.enqueue import send_follow
from ferry.worker.push import Request
from tests.pages import Browser
from tests.parts import Bare, sample, wait_until


def _edit(bare: Bare, slug: str) -> str:
    """
    Write a record, as somebody does whose pull request is merged.
    """
    bare.edit({f"people/{slug}.toml": f'name = "{slug.title()}"\nslug = "{slug}"\n'})
    return str(bare.head())


def _is_read(api, slug: str) -> bool:
    return api.get(f"/api/sheets/people/records/{slug}").status_code == 200


def test_what_people_push_is_read_within_the_interval_and_a_write_follows(
    client, worker, beat, env, data, remote
):
    """
    In every API process, without a request; and our next commit is a fast-forward of theirs.
    """
    env["CFP_DATA_FOLLOW_INTERVAL"] = "0.5"
    api, other, running = client(), client(), worker()
    wait_until(lambda: remote.head() == data.head(), what="the backlog on the remote")
    beat()

    theirs = _edit(remote, "joe")

    wait_until(lambda: _is_read(api, "joe"), what="their record")
    assert _is_read(other, "joe")
    assert running.await_event("follow.done")["after"] == theirs
    api.put("/api/sheets/people/records/jane", json={"slug": "jane", "name": "Jane"})
    wait_until(lambda: remote.head() == data.head(), what="our commit on top of theirs")
    assert remote.has(theirs)
    assert running.events("push.blocked") == []


def test_a_rewritten_history_pages_without_a_write_and_once(client, worker, beat, env, data, remote, sentry):
    """
    The look finds it, the push that follows is refused, and later looks and sweeps add nothing.
    """
    env["CFP_DATA_FOLLOW_INTERVAL"] = "0.5"
    api, running = client(), worker(SENTRY_DSN=sentry.dsn)
    wait_until(lambda: remote.head() == data.head(), what="the backlog on the remote")
    held = data.head()
    amended = remote.git("commit-tree", "-p", "main~1", "-m", "amended", "main^{tree}")
    remote.git("update-ref", "refs/heads/main", amended)
    beat(CFP_PUSH_SWEEP_INTERVAL="0.5")

    wait_until(lambda: sentry.events, what="the page")
    assert "the history of origin was rewritten" in sentry.events[0]["message"]
    seen = api.get("/api/_internal/push").json["sweep"]["last_at"]
    wait_until(lambda: api.get("/api/_internal/push").json["sweep"]["last_at"] > seen, what="another sweep")
    assert (data.head(), remote.head(), len(sentry.events)) == (held, amended, 1)
    status = api.get("/api/_internal/push").json["remotes"]["origin"]
    assert (status["state"], status["rewritten_from"]) == ("blocked", held)
    assert running.events("push.blocked")[0]["remote_head"] == amended


def test_without_an_interval_a_nudge_is_followed_and_the_sweep_finds_one_whose_message_was_lost(
    client, worker, beat, env, data, remote
):
    env["CFP_DATA_FOLLOW_INTERVAL"] = "0"
    api, running = client(), worker()
    wait_until(lambda: remote.head() == data.head(), what="the backlog on the remote")
    pipeline = build(env, publisher=True)

    _edit(remote, "joe")
    assert pipeline.ledger.nudge("origin")
    send_follow(pipeline.celery, "operator", is_noted=True, queue=pipeline.queue)
    wait_until(lambda: _is_read(api, "joe"), what="their record")

    _edit(remote, "sam")
    pipeline.ledger.nudge("origin")
    beat(CFP_PUSH_SWEEP_INTERVAL="0.5")
    wait_until(lambda: _is_read(api, "sam"), what="their second record")
    assert running.events("push.blocked") == []


def _level(env, data, remote):
    """
    Push what is pending, without a worker; returns the pipeline.
    """
    pipeline = build(env, publisher=True)
    pipeline.pusher.push(Request(remote="origin", chain="first"))
    assert remote.head() == data.head()
    return pipeline


def test_what_was_taken_over_shows_with_its_author(client, env, data, remote):
    """
    In the event stream, in the history, on the status page.
    """
    api, pipeline = client(), _level(env, data, remote)
    position = f":{data.head()},origin:{data.head()}"
    theirs = _edit(remote, "joe")
    pipeline.follower.follow()

    answer = api.get("/api/events", headers={"Last-Event-ID": position}, buffered=False)
    text = b"".join(itertools.islice(answer.response, 2)).decode()
    answer.close()
    assert f'"hash": "{theirs}"' in text
    assert '"name": "Sam"' in text
    assert "by Sam" in Browser(api).open("/status").text
    assert f"received 1 commit by Sam, to {theirs[:12]}" in Browser(api).open("/status/history").text
    status = api.get("/api/_internal/push").json["remotes"]["origin"]
    assert (status["behind_commits"], status["remote_head"]) == (0, theirs)
    assert status["remote_seen_at"]


def test_what_is_not_read_yet_is_counted_and_told(client, env, data, remote, ferry):
    """
    Here because both sides have commits.
    """
    api, pipeline = client(), _level(env, data, remote)
    data.commit("ours")
    _edit(remote, "joe")
    pipeline.follower.follow()

    status = api.get("/api/_internal/push").json["remotes"]["origin"]
    assert (status["behind_commits"], status["pending_commits"]) == (1, 1)
    assert sample(api.get("/metrics").text, "ferry_behind_commits", remote="origin") == 1
    assert "Not read here yet 1 commit of others" in Browser(api).open("/status").text
    shown = ferry("push", "status").stdout
    assert "1 commit of others there, not read here yet" in shown
    assert f"seen there at {status['remote_seen_at']}" in shown
