"""
Which of two repositories is the primary: the one whose fence is the last on origin's branch.

``ferry promote`` puts a commit on origin that changes nothing and names the repository which made it. Another
that meets it there takes no more writes: nothing else would keep two primaries from acknowledging writes for
one branch. What that one had not pushed yet, the fence keeps from landing, and a rescue branch holds it.
"""

from __future__ import annotations

import socket
import time
from dataclasses import asdict, dataclass
from pathlib import Path

from ferry.worker.errors import RepositoryError
from ferry.worker.files.atomic_json import read_json, write_json
from ferry.worker.files.places import fence_record
from ferry.worker.git.prepare import COMMITTER
from ferry.worker.git.repository import Repository
from ferry.worker.observe.logs import log

_TRAILER, _HOST = "Ferry-Primary", "Ferry-Primary-Host"
HINT = (
    "Make this one a replica (CFP_API_ROLE=replica), or the primary again: ferry promote. "
    "What it had not pushed is on a rescue branch."
)


@dataclass(frozen=True, slots=True, kw_only=True)
class Fence:
    """
    That another repository is the primary.

    Attributes:
        commit: The commit that says so.
        host: Name of the machine on which it was made.
        at: When this repository met it, in seconds since the epoch.
    """

    commit: str
    host: str
    at: float


def is_fenced(repository: Path) -> bool:
    """
    Whether another repository is the primary.
    """
    return fence_record(repository).exists()


def fence_of(repository: Path) -> Fence | None:
    """
    Return what says that another repository is the primary; None where this may be it.
    """
    if not is_fenced(repository):
        return None
    told = read_json(fence_record(repository))
    return Fence(
        commit=str(told.get("commit", "")), host=str(told.get("host", "")), at=float(told.get("at", 0))
    )


def look_for_fence(repository: Repository, tip: str | None) -> None:
    """
    Remember a fence of another repository among what *tip*, origin's, has and the branch lacks.

    Raises:
        RepositoryError: git could not tell.
    """
    head = repository.head()
    if not repository.pushes or tip is None or head is None or repository.contains(tip, head):
        return
    # Some of them may only speak of one: a client's own words are in each message.
    named = repository.git.query("rev-list", f"--grep=^{_TRAILER}: ", tip, f"^{head}", "--").split()
    commits = (repository.log(name, limit=1)[0] for name in named)
    last = next((commit for commit in commits if _TRAILER in commit.trailers), None)
    if last is None or last.trailers[_TRAILER] == identity(repository):
        return
    fence = Fence(commit=last.hash, host=last.trailers.get(_HOST, ""), at=time.time())
    try:
        write_json(fence_record(repository.path), asdict(fence))
    except OSError as exc:  # the branch must not pass a fence that no writer would meet
        raise RepositoryError(f"cannot remember the fence {fence.commit}: {exc}") from exc
    log().error("primary.fenced", commit=fence.commit, host=fence.host, hint=HINT)


def make_fence(repository: Repository, tip: str, *, seconds: int) -> str:
    """
    Store the commit on top of *tip* that names this repository; returns its name. No branch names it.

    Raises:
        RepositoryError: git could not, or the key that signs commits cannot.
        OSError: The disk refused.
    """
    host, objects = socket.gethostname(), repository.objects
    return objects.write_commit(
        repository.git.query("rev-parse", f"{tip}^{{tree}}").strip(),
        (tip,),
        f"Promote {host}: its repository is the primary from here on",
        author=objects.committer.identity or COMMITTER,
        seconds=seconds,
        trailers=[(_TRAILER, identity(repository)), (_HOST, host)],
    )


def lift(repository: Repository) -> None:
    """
    Forget that another repository was the primary.
    """
    fence_record(repository.path).unlink(missing_ok=True)


def identity(repository: Repository) -> str:
    """
    Return what tells this repository from others; see ``ferry.worker.git.prepare``.
    """
    return repository.git.query("config", "--local", "--get", "ferry.id").strip()
