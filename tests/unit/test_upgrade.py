"""
An upgrade in the middle of an outage, and the way back.

``tests/corpus/upgrade`` holds what 0.1.0 left when it was ended while its remote was away: the ledger, the
page that Sentry had not taken, and the message that no worker had.
"""

from __future__ import annotations

import base64
import json
import os
from pathlib import Path

import pytest

from ferry.worker.bootstrap import build
from ferry.worker.broker.messages import _bind
from ferry.worker.episodes.episodes import outbox_of
from ferry.worker.files.places import remotes_directory
from ferry.worker.ledger.entry import Entry, as_json, from_json

CORPUS = Path(__file__).resolve().parents[1] / "corpus" / "upgrade"
LEDGER = (CORPUS / "ledger.json").read_bytes()


@pytest.fixture
def upgraded(line, data):
    """
    The line with the ledger of before, at the moment of its last attempt.
    """
    (remotes_directory(data.path) / "origin.json").write_bytes(LEDGER)
    line.clock.now = json.loads(LEDGER)["last_attempt_at"]
    return line


def test_the_scheduled_retry_goes_on_and_ends_the_episode(upgraded, data, remote):
    before = json.loads(LEDGER)
    assert upgraded.entry.attempt == before["attempt"] == 4
    assert upgraded.entry.paged == ("not-found",)
    upgraded.push("another")  # which leaves it to the one that is scheduled
    assert remote.head() is None

    upgraded.clock.now = before["next_attempt_at"] + 1
    upgraded.push(before["chain"], retries=before["retry"])

    assert remote.head() == data.head()
    assert (upgraded.entry.attempt, upgraded.entry.failing_since, upgraded.entry.paged) == (0, None, ())
    assert upgraded.entry.outcomes == {**before["outcomes"], "pushed": 2}


def test_a_lost_retry_is_found_by_the_sweep(upgraded):
    upgraded.clock.now = json.loads(LEDGER)["next_attempt_at"] + 3600
    assert list(upgraded.wanting()) == ["origin"]


def test_a_page_that_waits_is_sent_under_its_name(deployment):
    page = (CORPUS / "page.json").read_text()
    event = json.loads(page)["event"]
    place = deployment.settings.data_repo_path / "ferry" / "pages"
    place.mkdir(exist_ok=True)
    waiting = place / f"{event['event_id']}.json"
    waiting.write_text(page)
    os.utime(waiting, (1, 1))
    assert list(outbox_of(deployment.repository).due()) == [event]


def test_a_message_that_waits_is_understood(env, data, remote):
    message = json.loads((CORPUS / "message.json").read_text())
    args, kwargs, _ = json.loads(base64.b64decode(message["body"]))
    head = message["headers"]
    pipeline = build(env)
    task = pipeline.celery.tasks[head["task"]]
    done = task.apply(args, kwargs, task_id=head["id"], routing_key=pipeline.queue)
    assert done.state == "SUCCESS", done.traceback
    assert remote.head() == data.head()


def _kinds(value, known):
    """
    Return the shape of *value*: the fields that *known* has too, and the JSON types of what is not empty.
    """
    if isinstance(value, dict):
        return {name: _kinds(value[name], item) for name, item in known.items()}
    return "number" if type(value) in (int, float) else type(value).__name__


def test_the_release_before_reads_what_this_one_writes():
    """
    It passes over fields that it does not know; those that it knows are there, of the types that it expects.
    """
    before = json.loads(LEDGER)
    after = json.loads(as_json(from_json(Entry, LEDGER)))
    assert _kinds(after, before) == _kinds(before, before)


@pytest.mark.parametrize(
    ("name", "args", "kwargs"),
    [
        ("push", ["origin", "41bdd9b608f2"], {"out_of_turn": True, "look_afresh": True}),
        (
            "push",
            ["origin", "41bdd9b608f2"],
            {"out_of_turn": False, "look_first": True, "look_afresh": False},
        ),
        ("sweep", [], {"out_of_turn": True, "start": 1.0}),
    ],
)
def test_the_flags_that_the_release_before_sent_are_understood(env, data, remote, name, args, kwargs):
    """
    As the occasion that they meant.
    """
    pipeline = build(env)
    task = pipeline.celery.tasks[name]
    _bind(task, args, kwargs)
    if name == "push":
        done = task.apply(args, kwargs, routing_key=pipeline.queue)
        assert done.state == "SUCCESS", done.traceback
        assert remote.head() == data.head()


def test_a_word_that_only_a_later_release_knows_is_a_push_all_the_same(env, data, remote):
    pipeline = build(env)
    done = pipeline.celery.tasks["push"].apply(
        ["origin", "41bdd9b608f2"], {"occasion": "whim"}, routing_key=pipeline.queue
    )
    assert done.state == "SUCCESS", done.traceback
    assert remote.head() == data.head()
