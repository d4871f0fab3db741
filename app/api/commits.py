"""
Commits of the branch, what they changed, and which remotes have them.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any, TypeVar

from flask import Blueprint, request
from flask.typing import ResponseReturnValue
from werkzeug.datastructures import MultiDict

from ferry.app.api.cursors import Shown, page_of
from ferry.app.api.push import branch_states, commit_states
from ferry.app.api.reading import snapshot_of, snapshot_of_page
from ferry.app.errors import CommitNotFoundError
from ferry.app.services import services
from ferry.app.store.changes import ChangedFile, changed_files
from ferry.worker.git.history import Commit
from ferry.worker.git.refs import OBJECT_NAME
from ferry.worker.pipeline import Pipeline

bp = Blueprint("commits", __name__, url_prefix="/api/commits")

T = TypeVar("T")


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
    return {"commits": shown.entries, "next_cursor": shown.next_cursor}, shown.link()


@bp.get("/<name>")
def show(name: str) -> ResponseReturnValue:
    """
    Return one commit of the branch, by its full hash.
    """
    return _document(commit_of(name), commit_states(services().pipeline, name))


@bp.get("/<name>/changes")
def changes(name: str) -> ResponseReturnValue:
    """
    List the files that a commit changed, by path, and what it changed in each record.
    """
    shown = changes_of(commit_of(name), request.args, ChangedFile.as_json)
    return {"changes": shown.entries, "next_cursor": shown.next_cursor}, shown.link()


def changes_of(commit: Commit, arguments: MultiDict[str, str], show: Callable[[ChangedFile], T]) -> Shown[T]:
    """
    Return the files that *commit* changed, by path.

    Args:
        arguments: The query.
        show: Makes an entry of a file.
    """
    page, repository = (
        page_of(arguments, f"/api/commits/{commit.hash}/changes"),
        services().pipeline.repository,
    )
    files = repository.files_of(commit.hash)
    entries = page.fitting(map(show, changed_files(repository, commit, files[page.offset :])))
    more = len(files) > page.offset + len(entries)
    return Shown(page=page, commit=commit.hash, entries=entries, has_more=more)


def commit_of(name: str) -> Commit:
    """
    Return one commit of the branch, by its full hash.

    Raises:
        CommitNotFoundError: The branch has no such commit.
    """
    repository = services().pipeline.repository
    if not OBJECT_NAME.fullmatch(name) or not repository.contains(name, snapshot_of().commit):
        raise CommitNotFoundError(f"The branch has no commit {name!r}.")
    [commit] = repository.log(name, limit=1)
    return commit


def commit_documents(pipeline: Pipeline, commits: Sequence[Commit]) -> list[dict[str, Any]]:
    """
    Return the JSON documents of *commits* of the branch.
    """
    states = branch_states(pipeline, commits)
    return [_document(commit, each) for commit, each in zip(commits, states, strict=True)]


def _document(commit: Commit, states: Mapping[str, str]) -> dict[str, Any]:
    return {**commit.as_json(), "push": states}
