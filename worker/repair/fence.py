"""
Which repository is the primary: the one whose branch holds the last promotion that origin's holds.

``ferry promote`` puts a commit on origin that changes nothing and gives the promotion a name of its own. A
repository whose branch lacks it takes no more writes: nothing else would keep two primaries from taking them
for one branch. What that one had not pushed yet, the fence keeps from landing; a rescue branch holds it.

A replica's clone may hold the last promotion, too. So it is fenced from its first start as a replica, and
only a promotion makes it the primary.

The name is the promotion's and not the repository's, for a copied volume has everything by which a repository
could be known. It is looked for by that name, not by the commit's, which changes where history is rewritten.
"""

from __future__ import annotations

import contextlib
import re
import socket
import time
import uuid
from collections.abc import Iterator
from dataclasses import asdict, dataclass
from pathlib import Path

from ferry.worker.errors import RepositoryError
from ferry.worker.files.atomic_json import read_json, write_json
from ferry.worker.files.moments import timestamp
from ferry.worker.files.places import fence_record, promoted_record
from ferry.worker.git.history import Commit
from ferry.worker.git.prepare import COMMITTER
from ferry.worker.git.repository import Repository
from ferry.worker.observe.logs import log

_TRAILER, _HOST = "Ferry-Promotion", "Ferry-Promotion-Host"
HINT = (
    "Make this one a replica (CFP_API_ROLE=replica), or the primary again: ferry promote. "
    "What it had not pushed is on a rescue branch."
)


@dataclass(frozen=True, slots=True, kw_only=True)
class Fence:
    """
    That another repository is the primary.

    Attributes:
        commit: The commit that says so; "": none does, but this repository was a replica's.
        host: Name of the machine on which the commit was made.
        at: When this repository met the commit, or became a replica's, in seconds since the epoch.
    """

    commit: str
    host: str
    at: float

    @property
    def told(self) -> str:
        """
        Why this repository takes no writes, in a sentence.
        """
        since = timestamp(self.at)
        if not self.commit:
            return f"it was a replica's since {since}, and no promotion has made it the primary"
        return f"another is the primary since {since}: {self.commit}, made on {self.host}"


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
    Remember the last promotion that *tip*, origin's, holds and the branch lacks: it was another repository's.

    Raises:
        RepositoryError: git could not tell.
    """
    head = repository.head()
    if tip is None or head is None or repository.contains(tip, head):
        return
    last = next(_promotions(repository, "", tip, f"^{head}"), None)
    if last is None or any(_promotions(repository, last.trailers[_TRAILER], head)):
        return  # none, or the branch holds it, if by another commit: others have rewritten origin's history
    known = fence_of(repository.path)
    if known is not None and known.commit == last.hash:
        return
    fence = Fence(commit=last.hash, host=last.trailers.get(_HOST, ""), at=time.time())
    try:
        write_json(fence_record(repository.path), asdict(fence))
        promoted_record(repository.path).unlink(missing_ok=True)
    except OSError as exc:  # the branch must not pass a fence that no writer would meet
        raise RepositoryError(f"cannot remember the fence {fence.commit}: {exc}") from exc
    if repository.pushes:  # a replica remembers it too, and may become the primary by a promotion alone
        log().error("primary.fenced", commit=fence.commit, host=fence.host, hint=HINT)


def _promotions(repository: Repository, name: str, *commits: str) -> Iterator[Commit]:
    """
    Yield the promotions among *commits*, newest first.

    Args:
        name: Of the promotion; "" for any.
    """
    options = ("--topo-order", f"--grep=^{_TRAILER}: {re.escape(name)}")
    for each in repository.git.query("rev-list", *options, *commits, "--").split():
        commit = repository.log(each, limit=1)[0]
        found = commit.trailers.get(
            _TRAILER
        )  # others only speak of one: a client's words are in each message
        if found is not None and name in ("", found):
            yield commit


def make_fence(repository: Repository, tip: str, *, seconds: int) -> str:
    """
    Store the commit on top of *tip* that names a new promotion; returns its name. No branch names it.

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
        trailers=[(_TRAILER, uuid.uuid4().hex), (_HOST, host)],
    )


def fence_replica(repository: Repository) -> None:
    """
    Remember that *repository* is a replica's, so that it takes no writes before a promotion.

    A clone that was made after the last promotion holds it, as the primary's does. A promoted one is left as
    it is: its process may start again as a replica's before the settings are changed.
    """
    path = repository.path
    if is_fenced(path) or promoted_record(path).exists():
        return
    with contextlib.suppress(OSError):  # of a full disk; the next start does it
        write_json(fence_record(path), asdict(Fence(commit="", host="", at=time.time())))


def lift(repository: Repository) -> None:
    """
    Remember that *repository* is the primary.
    """
    with contextlib.suppress(OSError):  # of a full disk: no reason to keep the fence
        write_json(promoted_record(repository.path), {"at": time.time()})
    fence_record(repository.path).unlink(missing_ok=True)
