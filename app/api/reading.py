"""
The commit that a request reads, and the earliest commit that it accepts.

Each answer names the first in ``X-Ferry-Commit``; a client sends the second as ``X-Ferry-At-Least``. So a
client reads its own writes, and nothing older than what it has read, whichever process or machine answers.
"""

from __future__ import annotations

import re
import threading
from collections.abc import Callable

from flask import Response, g, request

from ferry.app.api.cursors import Page
from ferry.app.api.writing import client_is_gone
from ferry.app.errors import CommitNotFoundError
from ferry.app.problems import Problem
from ferry.app.server.later import Delay, has_waited, leave
from ferry.app.services import services
from ferry.app.store.snapshot import Snapshot
from ferry.worker.git.refs import OBJECT_NAME

COMMIT, AT_LEAST = "X-Ferry-Commit", "X-Ferry-At-Least"
MAX_DELAY_S = 5.0
MAX_DELAYED = 256  # per process; each waiting request is checked whenever the branch has moved
MAX_THREADS = 2  # threads, in a server where each wait takes one
_FULL = re.compile("[0-9a-f]{40}")
_threads = threading.BoundedSemaphore(MAX_THREADS)


def snapshot_of(commit: str | None = None) -> Snapshot:
    """
    Return the repository as it is, or as it was at *commit*, for a request that reads it.

    Raises:
        CommitNotFoundError: The branch has no such commit.
    """
    repository, found = services().pipeline.repository, services().store.snapshot()
    if commit is not None:
        if not OBJECT_NAME.fullmatch(commit) or not repository.contains(commit, found.commit):
            raise CommitNotFoundError(f"The branch has no commit {commit[:64]!r}.")
        found = Snapshot.of(repository, commit)
    g.read_from = found.commit
    return found


def snapshot_of_page(page: Page) -> Snapshot:
    """
    Return the repository at the commit that *page* is read from.

    Raises:
        CommitNotFoundError, Problem: The branch has no such commit.
    """
    try:
        return snapshot_of(page.commit)
    except CommitNotFoundError as exc:
        raise page.commit_is_gone() from exc


def name_commit(response: Response) -> None:
    """
    Name the commit that an answer was read from.
    """
    if commit := g.get("read_from"):
        response.headers[COMMIT] = commit


def await_commit() -> None:
    """
    Wait until the branch contains the commit that the request asks for; without a thread, if the server can.

    Raises:
        Problem: 400 if the header is not a commit's full hash, 503 if the branch does not contain the commit
            in time.
    """
    commit = request.headers.get(AT_LEAST)
    if commit is None:
        return
    if not _FULL.fullmatch(commit):
        raise Problem(
            400,
            "at-least-invalid",
            f"{AT_LEAST} is not the full hash of a commit.",
            f"Send the value of {COMMIT} from an earlier answer, or the commit hash that a write returned.",
        )
    repository = services().pipeline.repository

    def has_come() -> bool:
        # For a commit that is not in the repository, only a git process could tell.
        return repository.objects.is_commit(commit) and repository.contains(commit, repository.head())

    if has_come():
        return
    later = Delay(happened=has_come, timeout_s=MAX_DELAY_S, most=MAX_DELAYED)
    if not has_waited() and not leave(later) and _has_come_meanwhile(has_come):
        return
    raise Problem(
        503,
        "commit-not-here",
        f"The branch does not contain the commit {commit} yet.",
        "Repeat the request, or send it to the primary.",
        headers={"Retry-After": "1"},
    )


def _has_come_meanwhile(has_come: Callable[[], bool]) -> bool:
    if not _threads.acquire(blocking=False):
        return False
    try:
        return services().arrivals.wait(has_come, MAX_DELAY_S, is_gone=client_is_gone)
    finally:
        _threads.release()
