"""
Whose turn it is at a remote: the function does what the table of its documentation says.
"""

from __future__ import annotations

import re
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from ferry.worker.ledger.entry import Entry, Failure, Running
from ferry.worker.turns.turn import OCCASIONS, STATES, Facts, Turn, whose_turn

PAGE = Path(__file__).resolve().parents[2] / "docs" / "explanation" / "claim-chain-page-and-turn.md"
NOW = 1_800_000_000.0
NETWORK, REJECTED, STALLED = (
    Failure(reason=reason, message="no", hint="do", at=NOW - 10, attempt=2)
    for reason in ("network", "rejected", "stalled")
)
RUNNING = Running(host="worker", group=7, born="1")
WAITING: dict[str, Any] = {
    "chain": "first",
    "retry": 2,
    "last_attempt_at": NOW - 10,
    "next_attempt_at": NOW + 90,
}

# What each first cell of the table means.
REMOTES: dict[str, tuple[Turn, Entry, Facts]] = {
    "is paused": (
        Turn.PAUSED,
        Entry(paused_at=NOW - 5, last_failure=NETWORK, **WAITING),
        Facts(pending=True),
    ),
    "has every commit, and no failure is on record": (Turn.DONE, Entry(), Facts(pending=False)),
    "is claimed by a process": (Turn.PUSHING, Entry(running=RUNNING), Facts(pending=True, claimed=True)),
    "has another retry in the ledger than the one that asks": (
        Turn.SUPERSEDED,
        Entry(last_failure=NETWORK, **{**WAITING, "chain": "second"}),
        Facts(pending=True),
    ),
    "has a retry that is due later": (
        Turn.RETRYING,
        Entry(last_failure=NETWORK, **WAITING),
        Facts(pending=True),
    ),
    "has a push that `CFP_PUSH_MIN_INTERVAL` put off": (Turn.DEFERRED, Entry(**WAITING), Facts(pending=True)),
    "was given up after `CFP_PUSH_MAX_RETRIES`": (
        Turn.GAVE_UP,
        Entry(gave_up=True, last_failure=NETWORK),
        Facts(pending=True),
    ),
    "refused the last push": (Turn.REFUSED, Entry(last_failure=REJECTED), Facts(pending=True)),
    "stalls, as a watchdog found": (Turn.STALLED, Entry(last_failure=STALLED), Facts(pending=True)),
    "lacks commits": (Turn.FREE, Entry(), Facts(pending=True)),
}


def _rows() -> dict[str, dict[str, str]]:
    """
    Return the cells of the documented table, by its first column and by the heading of each.
    """
    table = re.search(r"^\| the remote \|.*?\n\n", PAGE.read_text(), re.MULTILINE | re.DOTALL)
    assert table
    heads, _, *rows = [
        [cell.strip() for cell in line[1:-1].split("|")] for line in table[0].strip().splitlines()
    ]
    return {row[0]: dict(zip(heads, row, strict=True)) for row in rows}


ROWS = _rows()


def test_the_table_tells_of_every_turn():
    assert set(ROWS) == set(REMOTES)
    told = [turn for turn, _, _ in REMOTES.values()]
    assert sorted(turn.name for turn in told) == sorted(
        turn.name for turn in Turn if turn is not Turn.DISABLED
    )
    assert {turn.state for turn in Turn} == set(STATES)
    assert Turn.DISABLED.sentence in PAGE.read_text().replace("\n", " ")


@pytest.mark.parametrize("remote", REMOTES)
def test_people_read_the_state_and_the_sentence_of_the_table(remote: str):
    turn, entry, facts = REMOTES[remote]
    assert f"`{turn.state}`" == ROWS[remote]["state"]
    assert turn.sentence == ROWS[remote]["sentence"]
    if turn is not Turn.SUPERSEDED:  # which only the retry itself can tell
        assert whose_turn(entry, facts, NOW) is turn


@pytest.mark.parametrize("occasion", OCCASIONS)
@pytest.mark.parametrize("remote", REMOTES)
def test_a_task_does_what_the_table_says(remote: str, occasion):
    turn, entry, facts = REMOTES[remote]
    asked = replace(facts, occasion=occasion, task="first", retries=2 if occasion == "retry" else 0)
    expected = {"ends": turn, "pushes": Turn.FREE}
    if cell := ROWS[remote][occasion]:
        assert whose_turn(entry, asked, NOW) is expected[cell]


@pytest.mark.parametrize("occasion", OCCASIONS)
def test_a_failure_that_outlives_what_was_pending_is_a_tasks_to_end(occasion):
    """
    Somebody else has pushed. People see that everything is there.
    """
    entry = Entry(last_failure=REJECTED)
    assert whose_turn(entry, Facts(pending=False, occasion=occasion), NOW) is Turn.FREE
    assert whose_turn(entry, Facts(pending=False), NOW) is Turn.DONE


@pytest.mark.parametrize("remote", REMOTES)
def test_a_look_at_a_remote_leaves_its_state(remote: str):
    """
    It holds the claim, and no git pushes: a blocked remote stays blocked, whatever a sweep looks at.
    """
    turn, entry, facts = REMOTES[remote]
    if turn is not Turn.SUPERSEDED:
        seen = whose_turn(entry, replace(facts, claimed=True), NOW)
        assert seen is (Turn.PUSHING if turn is Turn.FREE else turn)


def test_a_paused_remote_is_paused_though_nothing_waits_and_whatever_failed():
    for pending in (True, False):
        entry = Entry(paused_at=NOW, last_failure=REJECTED, running=RUNNING)
        assert whose_turn(entry, Facts(pending=pending, claimed=True), NOW) is Turn.PAUSED


def test_a_retry_counts_as_lost_after_the_grace():
    entry = Entry(last_failure=NETWORK, **WAITING)
    late = NOW + 100
    assert whose_turn(entry, Facts(pending=True, occasion="sweep", grace_s=15), late) is Turn.RETRYING
    assert whose_turn(entry, Facts(pending=True, occasion="sweep", grace_s=5), late) is Turn.FREE


def test_a_remote_that_has_just_answered_is_tried_before_its_retry():
    entry = Entry(last_failure=NETWORK, **WAITING)
    assert whose_turn(entry, Facts(pending=True, occasion="sweep", has_answered=True), NOW) is Turn.FREE


def test_every_sentence_is_one_that_people_can_read():
    for turn in Turn:
        assert re.fullmatch(r"[A-Z].*\.", turn.sentence)
