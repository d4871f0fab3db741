"""
The branch's commits, and which remotes have them.
"""

from __future__ import annotations

import re
from typing import Any

from flask import Blueprint, request
from flask.typing import ResponseReturnValue

from app.api.paging import page_of
from app.api.push import commit_states
from app.errors import CommitNotFoundError
from app.services import services
from worker.git import Commit
from worker.pipeline import Pipeline

bp = Blueprint("commits", __name__, url_prefix="/api/commits")


@bp.get("")
def index() -> ResponseReturnValue:
    """
    List commits, newest first, and none before one of its children.
    """
    page = page_of(request.args, request.path)
    repository = services().pipeline.repository
    head = repository.head()
    tip = page.commit or head
    if page.commit and not repository.contains(page.commit, head):
        raise page.commit_is_gone()
    found = repository.log(tip, skip=page.offset, limit=page.limit + 1, children_first=True) if tip else []
    more = len(found) > page.limit
    return {
        "commits": [commit_document(services().pipeline, commit) for commit in found[: page.limit]],
        "next_cursor": page.cursor(commit=tip, offset=page.offset + page.limit) if more else None,
    }


@bp.get("/<name>")
def show(name: str) -> ResponseReturnValue:
    """
    Return one commit of the branch, by its full hash.
    """
    repository = services().pipeline.repository
    if not re.fullmatch("[0-9a-f]{40}", name) or not repository.contains(name, repository.head()):
        raise CommitNotFoundError(f"The branch has no commit {name!r}.")
    return commit_document(services().pipeline, repository.log(name, limit=1)[0])


def commit_document(pipeline: Pipeline, commit: Commit) -> dict[str, Any]:
    """
    Return one commit as clients see it.
    """
    name, email = commit.author
    return {
        "hash": commit.hash,
        "parents": list(commit.parents),
        "author": {"name": name, "email": email},
        "authored_at": commit.authored_at,
        "message": commit.message,
        "trailers": _trailers(commit),
        "push": commit_states(pipeline, commit.hash),
    }


def _trailers(commit: Commit) -> dict[str, str | list[str]]:
    """
    Return each trailer's value; a list where it stands several times.
    """
    values: dict[str, list[str]] = {}
    for key, value in commit.trailer_lines:
        values.setdefault(key, []).append(value)
    return {key: each if len(each) > 1 else each[0] for key, each in values.items()}
