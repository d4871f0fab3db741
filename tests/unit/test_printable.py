"""
That no text of others reaches an operator's terminal with what a terminal obeys.
"""

from __future__ import annotations

import re
from pathlib import Path

import pytest

from ferry.app.cli.reconcile import _print_outcome
from ferry.worker.failures import explain
from ferry.worker.git.divergence import Divergence, Side
from ferry.worker.git.history import Commit
from ferry.worker.ledger.events import Event, recall, remember
from ferry.worker.ledger.operators import Operator
from ferry.worker.observe.printable import in_line, printable
from ferry.worker.repair.merger import Change, Conflict, Field
from ferry.worker.repair.reconcile import Outcome

EVIL = "a\x1b[2Jb\x1b]0;title\x07c\x9b31md\u202ee\u2066f\u2028g\rh\x00\x7fi\nj"
OBEYED = re.compile("[\x00-\x08\x0b-\x1f\x7f-\x9f\u061c\u200e\u200f\u2028-\u202e\u2066-\u2069]")


def test_what_a_terminal_obeys_is_left_out():
    assert printable(EVIL) == "abc31mdefghi\nj"
    assert in_line(EVIL) == "abc31mdef g hi j"
    assert in_line("\tdie Bürgermeisterin \U0001f6ab  ") == "\tdie Bürgermeisterin \U0001f6ab  "


def test_who_acts_and_what_happened_are_one_line_each(tmp_path: Path):
    assert Operator.of(EVIL, EVIL) == Operator(who="abc31mdef g hi j", why="abc31mdef g hi j")
    remember(tmp_path / "events", Event(at=1.0, kind="failing", detail=EVIL))
    assert recall(tmp_path / "events")[0].detail == "abc31mdef g hi j"


def test_a_secret_is_not_hidden_behind_a_control_character():
    assert "hunter2" not in Operator.of("ana", "pass\u202eword: hunter2").why


def test_what_a_hook_says_is_evidence_without_colours():
    said = "remote: \x1b[31mno\u202e\x9b \x1b]0;title\x07entry\n"
    refused = "To origin\n!\tmain:main\t[remote rejected] (pre-receive hook declined)\n"
    assert explain(1, refused, said).evidence == "remote: no entry"


@pytest.mark.parametrize("is_joined", [True, False])
def test_a_reconcile_prints_both_sides_and_obeys_neither(capsys, is_joined: bool):
    commit = Commit(
        hash="1" * 40, parents=(), author=(EVIL, EVIL), authored_at="2026", message=EVIL, trailers={}
    )
    side = Side(head="1" * 40, count=1, commits=(commit,), files=frozenset())
    field = Field(name=EVIL, base=None, ours=EVIL, theirs="x\ny", result=None, conflict=not is_joined)
    outcome = Outcome(
        state="merged" if is_joined else "conflict",
        remote="origin",
        branch="main",
        before="1" * 40,
        after=("2" if is_joined else "1") * 40,
        divergence=Divergence(base=None, ours=side, theirs=side),
        conflicts=() if is_joined else (Conflict(path=EVIL, kind="field", field=EVIL),),
        changes=(Change(path=EVIL, ours="changed", theirs="changed", result="changed", fields=(field,)),),
        detail=EVIL,
    )
    _print_outcome(outcome, {EVIL: "ours"}, dry_run=True)
    printed = capsys.readouterr().out
    assert not OBEYED.search(printed)
    assert all(line.startswith("  ") for line in printed.splitlines()[1:])
    assert "\n      theirs x\n             y\n" in printed
