"""
Fast-forward the branch to commits that others pushed to origin: the webhook that the git host calls.

A host's own webhook is answered at once, and the task ``follow`` does the work; see ``deliveries`` for what
hosts say. A caller that sends a bearer token and Ferry's own form of body gets the result in the answer.
"""

from __future__ import annotations

import re
from dataclasses import dataclass
from typing import Any

from flask import Blueprint, request
from flask.typing import ResponseReturnValue

from ferry.app.access import RELOAD_PATH, reloader
from ferry.app.api.deliveries import DeliveryError, Pushed, event_of, read
from ferry.app.metrics import metering
from ferry.app.problems import Problem
from ferry.app.services import services
from ferry.worker.errors import ReconcileError, RemoteBusyError
from ferry.worker.git import inventory
from ferry.worker.git.repository import Repository
from ferry.worker.repair.reconcile import Outcome, Strategy
from ferry.worker.settings import ORIGIN

bp = Blueprint("reload", __name__, url_prefix=RELOAD_PATH)

_FULL = 40
_UNIQUE = 7  # digits; fewer are ambiguous, and the remote is asked
_HASH = re.compile("[0-9a-fA-F]{4,40}")  # git accepts at least four digits


@dataclass(frozen=True, slots=True, kw_only=True)
class _Request:
    branch: str
    commit: str | None


@bp.post("")
def reload_data() -> ResponseReturnValue:
    """
    Fetch origin and fast-forward the branch to it. Reads in every process see the result at once.

    Answers ``{"state", "branch", "local_head", "remote_head"}``. If CFP_DATA_RECONCILE is
    ``auto``, diverged branches are merged. A host's webhook gets 202 with the task that does so.

    Raises:
        Problem: 400 if the body is invalid; 409 if the branches have diverged or no remote is configured; 502
            if origin did not answer; 503 while a push or a write takes long.
    """
    event = event_of(request.headers)
    try:
        reloader()
        if event is not None:
            return _delivered(*event)
    except Problem as problem:
        result = "refused" if problem.status in (401, 429) else "failed"
        metering.webhook_received(event[0] if event else "none", result)
        raise
    asked = _parsed(request.get_json(silent=True) if request.data else {})
    pipeline = services().pipeline
    repository, settings = pipeline.repository, pipeline.settings
    if asked.branch != repository.branch:
        return _answer("ignored", asked.branch)
    if asked.commit and _is_here(repository, asked.commit):
        return _answer("in-sync", asked.branch)
    if ORIGIN not in settings.remotes:
        raise _no_remote()
    strategy: Strategy = "merge" if settings.data_reconcile == "auto" else "fast-forward"
    try:
        outcome = pipeline.reconciler.reconcile(ORIGIN, strategy, is_unasked=True)
    except (ReconcileError, RemoteBusyError) as exc:
        raise Problem(
            503, "repository-busy", str(exc), "Repeat the request.", headers={"Retry-After": "5"}
        ) from exc
    # The mirrors lack the fetched commits, and origin lacks a merge commit.
    if head := repository.head():
        services().push_queue.enqueue_push(head)
    if not outcome.is_joined:
        raise _problem(outcome)
    return _answer(outcome.state, asked.branch)


def _delivered(host: str, event: str) -> ResponseReturnValue:
    """
    Answer a host's webhook: queue the task ``follow``, unless the branch has the pushed commits already.
    """
    try:
        delivery = read(host, event, request.headers.get("Content-Type", ""), request.get_data())
    except DeliveryError as exc:
        hint = "Choose the content type application/json, and push events alone, in the host's settings."
        raise Problem(400, "body-invalid", f"{exc}.", hint) from exc
    pipeline = services().pipeline
    repository, branch = pipeline.repository, pipeline.repository.branch
    state, task = "ignored", None
    pushes = [push for push in delivery.pushes if push.branch == branch]
    if delivery.kind == "ping":
        state = "pong"
    elif pushes and all(_is_known(repository, push) for push in pushes):
        state = "in-sync"
    elif pushes:
        if ORIGIN not in pipeline.settings.remotes:
            raise _no_remote()
        state, task = "queued", services().push_queue.enqueue_follow(pipeline.ledger, host)
    metering.webhook_received(host, state)
    answer = _answer(state, branch)
    return ({**answer, "task": task}, 202) if state == "queued" else answer


def _is_known(repository: Repository, push: Pushed) -> bool:
    """
    Whether the branch has the pushed commit already, as after each push of our own.
    """
    return push.commit is not None and not push.forced and repository.contains(push.commit, repository.head())


def _no_remote() -> Problem:
    return Problem(409, "no-remote", "No remote is configured.", "Set CFP_DATA_REMOTE.")


def _is_here(repository: Repository, commit: str) -> bool:
    """
    Whether the branch has *commit*, which may be abbreviated.
    """
    if len(commit) < _UNIQUE:
        return False
    head = repository.head()
    full = [commit] if len(commit) == _FULL else inventory.named(repository.git, commit)
    return any(repository.contains(each, head) for each in full)


def _parsed(body: Any) -> _Request:
    if not isinstance(body, dict):
        raise _bad("The body is not a JSON object.")
    branch, commit = body.get("branch"), body.get("commit_hash")
    commit = body.get("commitHash") if commit is None else commit
    if branch is not None and (not isinstance(branch, str) or not branch):
        raise _bad("branch is not the name of a branch.")
    if commit is not None and not (isinstance(commit, str) and _HASH.fullmatch(commit)):
        raise _bad("commit_hash is neither a commit's hash nor its first four or more digits.")
    ours = services().pipeline.repository.branch
    return _Request(branch=(branch or ours).removeprefix("refs/heads/"), commit=commit and commit.lower())


def _bad(detail: str) -> Problem:
    return Problem(
        400, "body-invalid", detail, 'Send {"branch": "main", "commit_hash": "…"}, or an empty object.'
    )


def _problem(outcome: Outcome) -> Problem:
    if outcome.state == "fetch-failed":
        return Problem(
            502,
            "fetch-failed",
            outcome.detail,
            "Repeat the request when the remote answers.",
            state=outcome.state,
        )
    return Problem(
        409,
        "diverged",
        f"The branch was not updated: {outcome.detail}.",
        outcome.refusal.hint if outcome.refusal else "An operator joins both sides with: ferry reconcile",
        **{name: value for name, value in outcome.as_json().items() if name != "detail"},
    )


def _answer(state: str, branch: str) -> dict[str, Any]:
    repository = services().pipeline.repository
    return {
        "state": state,
        "branch": branch,
        "local_head": repository.head(),
        "remote_head": repository.remote_head(ORIGIN),
    }
