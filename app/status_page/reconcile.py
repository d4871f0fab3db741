"""
Reconciling in a browser. The page first shows the result, with a choice for each conflict. It reconciles only
if what it showed is still true (``_plan``). A second page lists the branches that a reconcile leaves behind.
"""

from __future__ import annotations

import hashlib
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from functools import partial
from http import HTTPStatus

from flask import Blueprint, request
from flask.typing import ResponseReturnValue

from ferry.app.problems import Problem
from ferry.app.services import services
from ferry.app.status_page.answers import by_form, message, page, the_remote
from ferry.worker.errors import TakeError, WorkerError
from ferry.worker.git.trees import changed
from ferry.worker.repair import kept
from ferry.worker.repair.merger import Takes, parse_takes, with_rest
from ferry.worker.repair.reconcile import Outcome, Strategy

bp = Blueprint("reconcile", __name__)

_ANSWER_S = 15.0  # for one remote; a browser does not wait for long
_STRATEGIES: tuple[Strategy, ...] = ("merge", "rebase", "preserve")


@bp.post("/reconcile")
def join() -> ResponseReturnValue:
    """
    Show what a reconcile would do; do it only if the operator has seen that and it is still true.
    """
    remote, strategy, takes = the_remote(), _strategy(), _takes()
    pipeline = services().pipeline
    try:
        outcome, takes = _shown(remote, strategy, takes)
        shown, plan = request.form.get("shown"), _plan(outcome, takes)
        is_done = shown == plan and _is_worth_doing(outcome)
        if is_done:
            outcome = pipeline.reconciler.reconcile(
                remote, strategy, takes=takes, compares=True, by=by_form()
            )
            if outcome.state != "fetch-failed" and (head := pipeline.repository.head()):
                services().push_queue.enqueue_push(head, "operator")
    except WorkerError as exc:
        status = HTTPStatus.CONFLICT if isinstance(exc, TakeError) else HTTPStatus.SERVICE_UNAVAILABLE
        return message(status, f"Not reconciled with {remote}", str(exc))
    return page(
        "outcome",
        outcome=outcome,
        is_done=is_done,
        has_changed=shown is not None and not is_done,
        is_worth_doing=_is_worth_doing(outcome),
        is_open=not is_done and strategy == "merge" and bool(outcome.conflicts),
        plan=plan,
        takes=[f"{place}={side}" for place, side in takes.items()],
        strategy=strategy,
        strategies=_STRATEGIES,
    )


def _shown(remote: str, strategy: Strategy, takes: Takes) -> tuple[Outcome, Takes]:
    """
    Return what would come of it; and *takes*, with the side that the form takes of all that is left.
    """
    reconcile = partial(
        services().pipeline.reconciler.reconcile,
        remote,
        strategy,
        dry_run=True,
        compares=True,
        by=by_form(),
    )
    outcome = reconcile(takes=takes)
    if not (rest := request.form.get("rest")) or not outcome.conflicts:
        return outcome, takes
    with _sides_named():
        takes = with_rest(takes, outcome.conflicts, rest)
    return reconcile(takes=takes), takes


@bp.get("/branches")
def show_branches() -> ResponseReturnValue:
    """
    Show the branches that Ferry made to keep commits safe.
    """
    found, problems = _branches()
    return _branches_page(found, problems)


@bp.post("/branches")
def remove_branches() -> ResponseReturnValue:
    """
    Remove those of them whose commits are all in the branch.
    """
    found, problems = _branches()
    pipeline, removed = services().pipeline, []
    for each in [each for each in found if each.is_contained]:
        try:
            kept.remove(pipeline.repository, pipeline.ledger, each, by=by_form(), timeout_s=_ANSWER_S)
            removed.append(each)
        except WorkerError as exc:
            problems.append(str(exc))
    return _branches_page([each for each in found if each not in removed], problems, removed)


def _branches() -> tuple[list[kept.Kept], list[str]]:
    """
    Return the branches of all remotes and of this machine, and the errors of remotes that could not be asked.
    """
    pipeline = services().pipeline
    found, problems = [], []
    for remote in (*pipeline.settings.remotes, kept.HERE):
        try:
            found += kept.kept_branches(pipeline.repository, remote, timeout_s=_ANSWER_S)
        except WorkerError as exc:
            problems.append(str(exc))
    return found, problems


def _branches_page(
    found: Sequence[kept.Kept], problems: Sequence[str], removed: Sequence[kept.Kept] = ()
) -> ResponseReturnValue:
    branch = services().pipeline.repository.branch
    return page("branches", found=found, problems=problems, removed=removed, branch=branch)


def _plan(outcome: Outcome, takes: Takes) -> str:
    """
    Return what must not change between what is shown and what is done.

    Our own tip may change: writers go on, and their commits are joined too. But the operator chose between
    the values that were shown, so the files that *takes* decides must be the same, and so must the merge
    base.

    Raises:
        RepositoryError: git failed.
    """
    decided: list[object] = []
    if takes and outcome.divergence and outcome.before and outcome.remote_head:
        # All files, by their objects: the page leaves files out, and shortens values.
        files = changed(services().pipeline.repository, outcome.remote_head, outcome.before)
        decided = [outcome.divergence.base, sorted(item for item in files.items() if _is_in(item[0], takes))]
    return f"{outcome.state} {outcome.remote_head} {hashlib.sha256(repr(decided).encode()).hexdigest()}"


def _is_in(path: str, takes: Takes) -> bool:
    """
    Whether *takes* decides the file at *path* or a field of it; names of both may hold a colon.
    """
    return any(place == path or place.startswith(f"{path}:") for place in takes)


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
    Return the side that the form chooses for each conflict. Each conflict has its own form field.
    """
    form = request.form.items(multi=True)
    with _sides_named():
        return parse_takes(value for name, value in form if name.startswith("take") and value)


@contextmanager
def _sides_named() -> Iterator[None]:
    try:
        yield
    except ValueError as exc:
        raise Problem(400, "bad-request", str(exc), "Choose ours or theirs.") from exc
