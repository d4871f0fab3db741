"""
What is committed while a claim is held is pushed, whatever the claim was held for.

Each test commits at a moment when a task would find the remote claimed, and hand over.
"""

from __future__ import annotations

import contextlib
import errno
import time
from collections.abc import Callable
from pathlib import Path

import pytest

from ferry.worker.attempt import STILL_DIVERGED
from ferry.worker.errors import NonFastForward, PushRefused
from ferry.worker.git.remote import Remote
from ferry.worker.ledger.operators import FERRY, pause, resume
from ferry.worker.push import UNREADABLE
from ferry.worker.repair import verify
from ferry.worker.turns.handover import Handover
from ferry.worker.turns.turn import Turn
from tests.line import Line
from tests.parts import Bare


@pytest.fixture
def sent(line: Line) -> list[tuple[str, str, str]]:
    """
    The pushes that are queued where a claim on *line* is let go of.
    """
    queued: list[tuple[str, str, str]] = []
    handover = Handover(line.repository, line.ledger, lambda *push: queued.append(push))
    line.ledger.released = handover.look_again
    return queued


def _commit_in_a_hook(data: Bare, remote: Bare, name: str, then: str) -> str:
    later = data.git("commit-tree", "-p", "main", "-m", "later", "main^{tree}")
    remote.hook(name, f"env -i PATH=$PATH git -C {data.path} update-ref refs/heads/main {later}\n{then}")
    return later


def test_a_commit_during_a_push_that_is_refused(line: Line, data: Bare, remote: Bare, sent):
    later = _commit_in_a_hook(data, remote, "pre-receive", "exit 1")

    with pytest.raises(PushRefused):
        line.push()

    assert sent == [("origin", later, "commit")]


def test_a_refusal_alone_queues_nothing(line: Line, remote: Bare, sent):
    """
    It would be refused again at once, and again.
    """
    remote.hook("pre-receive", "exit 1")
    for chain in ("first", "second"):
        with pytest.raises(PushRefused):
            line.push(chain)

    assert sent == []


def test_a_commit_during_a_push_that_fails_is_left_to_its_retry(line: Line, data: Bare, remote: Bare, sent):
    _commit_in_a_hook(data, remote, "pre-receive", "echo rate limit exceeded >&2; exit 1")
    line.fail()
    assert sent == []


def test_a_commit_during_a_push_that_lands_goes_with_the_same_task(line, data: Bare, remote: Bare, sent):
    later = _commit_in_a_hook(data, remote, "post-receive", "true")
    line.push()
    assert (remote.head(), sent) == (later, [])


def test_a_commit_during_a_look_at_a_divergence(line: Line, data: Bare, remote: Bare, sent, monkeypatch):
    line.push("first")
    remote.commit("theirs")
    data.commit("ours")
    with pytest.raises(NonFastForward):
        line.push("second")
    ask = Remote.ask

    def commit_and_ask(*arguments, **options):
        data.commit("later")
        assert line.push("later") == Turn.PUSHING.sentence
        return ask(*arguments, **options)

    monkeypatch.setattr(Remote, "ask", commit_and_ask)
    assert line.push("sweep", occasion="sweep") == STILL_DIVERGED

    assert sent == [("origin", data.head(), "commit")]


@pytest.mark.parametrize(
    "hold",
    [
        lambda line: line.ledger.claim("origin"),
        lambda line: line.ledger.claim_within("origin", 1.0),
    ],
)
def test_a_commit_while_the_claim_is_held_for_anything(line: Line, data: Bare, sent, hold):
    line.push()
    with hold(line):
        later = data.commit("later")
        assert line.push("later") == Turn.PUSHING.sentence

    assert sent == [("origin", later, "commit")]


def test_a_commit_while_the_claim_is_held_by_what_fails(line: Line, data: Bare, sent):
    with contextlib.suppress(ZeroDivisionError), line.ledger.claim("origin") as claim:
        claim.looks_again = True
        raise ZeroDivisionError
    assert sent == [("origin", data.head(), "commit")]


@pytest.mark.parametrize(
    "act",
    [
        lambda line: resume(line.ledger, "origin", FERRY, now=1.0, timeout_s=1.0),
        lambda line: verify.verify(line.settings, line.repository, line.ledger, "origin"),
    ],
    ids=["resume", "verify"],
)
def test_what_waits_is_queued_after_each_act_under_the_claim(line: Line, data: Bare, sent, act: Callable):
    line.push()
    later = data.commit("later")
    act(line)
    assert sent == [("origin", later, "commit")]


@pytest.mark.parametrize("state", [{"paused_at": 1.0}, {"tried": "HEAD"}])
def test_what_is_paused_or_was_tried_is_not_queued(line: Line, data: Bare, sent, state):
    with line.ledger.claim("origin") as claim:
        assert claim
        claim.write(**{name: data.head() if value == "HEAD" else value for name, value in state.items()})
    assert sent == []


@pytest.mark.parametrize("error", [None, ZeroDivisionError])
@pytest.mark.parametrize("looks_again", [False, True])
def test_what_an_operator_asks_for_outlives_the_claim(line: Line, data: Bare, sent, error, looks_again):
    """
    The holder may fail for what the operator has just repaired, and its retry may be an hour away.
    """
    with contextlib.suppress(ZeroDivisionError), line.ledger.claim("origin") as claim:
        assert claim
        claim.write(next_attempt_at=time.time() + 3600, last_attempt_at=time.time(), tried=data.head())
        claim.looks_again = looks_again
        assert line.push("operator", occasion="operator") == Turn.PUSHING.sentence
        if error:
            raise error
    assert sent == [("origin", data.head(), "operator")]

    with line.ledger.claim("origin"):
        pass
    assert len(sent) == 1


def test_an_attempt_that_begins_later_is_what_the_operator_asked_for(line: Line, remote: Bare, sent):
    assert line.ledger.request("origin")
    away = remote.path.rename(remote.path.with_name("away.git"))
    line.fail()
    away.rename(remote.path)
    assert sent == []


def test_a_push_that_has_landed_is_what_the_operator_asked_for(line: Line, sent):
    line.push()
    with line.ledger.claim("origin"):
        assert line.push("operator", occasion="operator") == Turn.PUSHING.sentence
    assert sent == []


def test_a_claim_that_ends_as_the_operator_asks_leaves_the_push_to_the_operator_s_task(
    line: Line, data: Bare, remote: Bare, sent, monkeypatch
):
    seen = iter([True, False])
    monkeypatch.setattr(line.ledger, "is_claimed", lambda remote: next(seen))
    line.push("operator", occasion="operator")
    assert (remote.head(), sent) == (data.head(), [])


def test_an_operator_s_request_that_cannot_be_stored_is_left_to_the_holder(
    line: Line, data: Bare, sent, monkeypatch
):
    def touch(path, *_, **__):
        raise OSError(errno.ENOSPC, "the disk is full", str(path))

    line.push()
    later = data.commit("later")
    with line.ledger.claim("origin"):
        monkeypatch.setattr(Path, "touch", touch)
        assert line.push("operator", occasion="operator") == Turn.PUSHING.sentence
    assert sent == [("origin", later, "commit")]


def test_a_broker_that_is_away_does_not_fail_what_the_claim_was_held_for(line: Line, data: Bare):
    def refuse(remote: str, commit: str, occasion: str) -> None:
        raise ConnectionRefusedError

    line.ledger.released = Handover(line.repository, line.ledger, refuse).look_again
    with line.ledger.claim("origin") as claim:
        assert claim


def test_a_ledger_that_cannot_be_read_pushes_nothing_and_is_swept_again(
    line: Line, data: Bare, remote: Bare, sent
):
    """
    An operator's pause may stand in it.
    """
    pause(line.ledger, "origin", FERRY, now=1.0, until=None, timeout_s=1.0)
    ledger = data.path / "ferry" / "remotes" / "origin.json"
    aside = ledger.rename(ledger.with_suffix(".aside"))
    ledger.mkdir()  # EISDIR, for root too

    assert line.push() == UNREADABLE
    assert line.push("operator", occasion="operator") == UNREADABLE
    assert line.wanting() == {"origin": data.head()}
    assert line.sweeper.unseen() == []

    ledger.rmdir()
    aside.rename(ledger)
    assert line.entry.paused_at == 1.0
    assert remote.head() is None
