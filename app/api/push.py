"""
The push status, and pushing now; for operators.
"""

from __future__ import annotations

import time
from collections.abc import Sequence
from typing import Any

from flask import Blueprint, request
from flask.typing import ResponseReturnValue

from ferry.app.access import operator, operator_of
from ferry.app.api.standing import look
from ferry.app.problems import Problem
from ferry.app.services import services
from ferry.worker.files.moments import timestamp
from ferry.worker.git.history import Commit
from ferry.worker.git.packs import Packs
from ferry.worker.git.repository import Repository
from ferry.worker.ledger import operators
from ferry.worker.pipeline import Pipeline

bp = Blueprint("push", __name__, url_prefix="/api/_internal/push")


@bp.before_request
def _operators_only() -> None:
    operator()


@bp.get("")
def show() -> ResponseReturnValue:
    """
    Return the status of every remote. Always 200: an unpushed commit is not an API error.
    """
    return _document()


@bp.post("")
def push_now() -> ResponseReturnValue:
    """
    Queue a push to every remote now, without waiting for a scheduled retry.

    Raises:
        Problem: 503 if the broker does not accept it.
    """
    pipeline = services().pipeline
    operators.request(pipeline.ledger, pipeline.settings.remotes, operator_of(_reason()), now=time.time())
    head = pipeline.repository.head()
    if head and not services().push_queue.enqueue_push(head, "operator"):
        raise Problem(
            503,
            "broker-unavailable",
            "The broker did not accept the push; it is made when the broker is back.",
            "Check Redis (CFP_REDIS_URL) and the worker.",
        )
    return _document(), 202


def _reason() -> str | None:
    """
    Return the ``reason`` of the request's body, which is optional.
    """
    body = request.get_json(silent=True)
    reason = body.get("reason") if isinstance(body, dict) else None
    return reason if isinstance(reason, str) else None


def _document() -> dict[str, Any]:
    pipeline = services().pipeline
    standing = look(pipeline)
    return {
        **standing.as_json(),
        "repository": {
            "last_maintenance_at": timestamp(standing.packed_at),
            **Packs(pipeline.repository.git).size(),
        },
    }


def commit_states(pipeline: Pipeline, commit: str) -> dict[str, str]:
    """
    Return ``pushed`` or ``pending`` for *commit*, by remote.
    """
    return {remote: _state(pipeline.repository, remote, commit) for remote in pipeline.settings.remotes}


def _state(repository: Repository, remote: str, commit: str) -> str:
    backlog = repository.backlog(remote)
    if commit in backlog:
        return "pending"
    # A remote has every commit of the branch that it does not lack; others are looked up.
    return "pushed" if backlog.has_arrived(commit) or repository.is_pushed(remote, commit) else "pending"


def branch_states(pipeline: Pipeline, commits: Sequence[Commit]) -> list[dict[str, str]]:
    """
    Return ``pushed`` or ``pending`` by remote, for each of several commits of the branch.
    """
    backlogs = {remote: pipeline.repository.backlog(remote) for remote in pipeline.settings.remotes}
    return [
        {remote: "pending" if commit.hash in backlog else "pushed" for remote, backlog in backlogs.items()}
        for commit in commits
    ]
