"""
Joining the branch with a remote's, in a browser: shown first, with what an operator takes of each conflict,
and done only while that still holds.
"""

from __future__ import annotations

import hashlib
from http import HTTPStatus

from flask import Blueprint, request
from flask.typing import ResponseReturnValue

from ferry.app.problems import Problem
from ferry.app.services import services
from ferry.app.status_page.answers import message, page, the_remote
from ferry.worker.errors import WorkerError
from ferry.worker.repair.merger import Takes, parse_takes
from ferry.worker.repair.reconcile import Outcome, Strategy

bp = Blueprint("reconcile", __name__)

_STRATEGIES: tuple[Strategy, ...] = ("merge", "rebase", "preserve")


@bp.post("/reconcile")
def join() -> ResponseReturnValue:
    """
    Show what reconciling would do; do it only if that was shown before and still holds.
    """
    remote, strategy, takes = the_remote(), _strategy(), _takes()
    pipeline = services().pipeline
    try:
        outcome = pipeline.reconciler.reconcile(remote, strategy, dry_run=True, takes=takes, compares=True)
        shown = request.form.get("shown")
        is_done = shown == _plan(outcome, takes) and _is_worth_doing(outcome)
        if is_done:
            outcome = pipeline.reconciler.reconcile(remote, strategy, takes=takes, compares=True)
            if outcome.state != "fetch-failed" and (head := pipeline.repository.head()):
                services().push_queue.enqueue_push(head, "operator")
    except WorkerError as exc:
        return message(HTTPStatus.SERVICE_UNAVAILABLE, f"Not reconciled with {remote}", str(exc))
    return page(
        "outcome",
        outcome=outcome,
        is_done=is_done,
        has_changed=shown is not None and not is_done,
        is_worth_doing=_is_worth_doing(outcome),
        is_open=not is_done and strategy == "merge" and bool(outcome.conflicts),
        conflicts={(conflict.path, conflict.field) for conflict in outcome.conflicts},
        plan=_plan(outcome, takes),
        takes=[f"{place}={side}" for place, side in takes.items()],
        strategy=strategy,
        strategies=_STRATEGIES,
    )


def _plan(outcome: Outcome, takes: Takes) -> str:
    """
    Return what must not change between what is shown and what is done.

    Our own tip may: writers go on, and their commits are joined as well. But a side is taken of the values
    that were shown.
    """
    taken = {place.rpartition(":")[0] or place for place in takes} | set(takes)
    decided = [change for change in outcome.changes if change.path in taken]
    return f"{outcome.state} {outcome.remote_head} {hashlib.sha256(repr(decided).encode()).hexdigest()}"


def _is_worth_doing(outcome: Outcome) -> bool:
    return outcome.before != outcome.after


def _strategy() -> Strategy:
    strategy = request.form.get("strategy", "merge")
    if strategy not in _STRATEGIES:
        raise Problem(
            400, "bad-request", "There is no such strategy.", f"Choose one of {', '.join(_STRATEGIES)}."
        )
    return strategy


def _takes() -> Takes:
    """
    Return what the form takes: each conflict has a field of its own, so that one side can be chosen of it.
    """
    given = (value for name, value in request.form.items(multi=True) if name.startswith("take") and value)
    try:
        return parse_takes(given)
    except ValueError as exc:
        raise Problem(400, "bad-request", str(exc), "Choose ours or theirs.") from exc
