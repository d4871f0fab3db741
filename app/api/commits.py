"""
Commits of the branch, and which remotes have them.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from flask import Blueprint, request
from flask.typing import ResponseReturnValue

from ferry.app.api.cursors import Shown, page_of
from ferry.app.api.push import branch_states, commit_states
from ferry.app.api.reading import snapshot_of, snapshot_of_page
from ferry.app.errors import CommitNotFoundError
from ferry.app.services import services
from ferry.worker.git.history import Commit
from ferry.worker.git.refs import OBJECT_NAME
from ferry.worker.pipeline import Pipeline

bp = Blueprint("commits", __name__, url_prefix="/api/commits")


@bp.get("")
def index() -> ResponseReturnValue:
    """
    List commits, newest first; a commit comes after its children.
    """
    page = page_of(request.args, request.path)
    repository = services().pipeline.repository
    tip = snapshot_of_page(page).commit
    found = repository.log(tip, skip=page.offset, limit=page.limit + 1, children_first=True) if tip else []
    entries = page.fitting(commit_documents(services().pipeline, found))
    shown = Shown(page=page, commit=tip, entries=entries, has_more=len(found) > len(entries))
    return {"commits": shown.entries, "next_cursor": shown.next_cursor}


@bp.get("/<name>")
def show(name: str) -> ResponseReturnValue:
    """
    Return one commit of the branch, by its full hash.
    """
    repository = services().pipeline.repository
    if not OBJECT_NAME.fullmatch(name) or not repository.contains(name, snapshot_of().commit):
        raise CommitNotFoundError(f"The branch has no commit {name!r}.")
    [commit] = repository.log(name, limit=1)
    return _document(commit, commit_states(services().pipeline, name))


def commit_documents(pipeline: Pipeline, commits: Sequence[Commit]) -> list[dict[str, Any]]:
    """
    Return the JSON documents of *commits* of the branch.
    """
    states = branch_states(pipeline, commits)
    return [_document(commit, each) for commit, each in zip(commits, states, strict=True)]


def _document(commit: Commit, states: Mapping[str, str]) -> dict[str, Any]:
    return {**commit.as_json(), "push": states}
