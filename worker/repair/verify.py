"""
Proving that what is on a remote is what we have, and that it could be had back.
"""

from __future__ import annotations

import shutil
import tempfile
import time
from collections.abc import Callable
from dataclasses import dataclass, replace
from pathlib import Path

from ferry.worker.errors import RepositoryError
from ferry.worker.files.atomic_json import read_json, write_json
from ferry.worker.files.places import state_directory, verified_record
from ferry.worker.git import clone, inventory
from ferry.worker.git.credentials import Credentials
from ferry.worker.git.remote import ended_within_s
from ferry.worker.git.repository import Repository
from ferry.worker.ledger.ledger import Ledger
from ferry.worker.repair.look import look
from ferry.worker.settings import ORIGIN, Settings

_WALK_TIMEOUT_S = 3600.0
_LONGEST_DRILL_S = 24 * 3600.0


@dataclass(frozen=True, slots=True, kw_only=True)
class Verified:
    """
    What looking at one remote came to.

    Attributes:
        remote: Name of the remote.
        is_ours: Whether its branch holds nothing that we lack.
        tip: Where its branch stands.
        lacks: How many of our commits it has not yet.
        detail: What is wrong, or what was found right.
    """

    remote: str
    is_ours: bool
    tip: str | None
    lacks: int
    detail: str


def verify(settings: Settings, repository: Repository, ledger: Ledger, remote: str) -> Verified:
    """
    Ask *remote* where its branch stands, and compare.

    Where it lacks commits that count as pushed, what we remember of it is corrected, so that they
    are pushed again.

    Raises:
        RemoteBusyError: A push keeps the remote to itself.
        RepositoryError: It does not answer.
    """
    timeout_s = settings.push_timeout_s
    with ledger.claim_within(remote, ended_within_s(timeout_s)) as claim:
        seen = look(claim, repository, timeout_s=timeout_s, now=time.time())
    return _compared(repository, remote, known=seen.known, tip=seen.tip)


def _compared(repository: Repository, remote: str, *, known: str | None, tip: str | None) -> Verified:
    head = repository.head()
    if known is not None and (tip is None or not repository.contains(known, tip)):
        lost = len(repository.commits_between(tip, known))
        detail = f"lacks {lost} commits that were pushed to it: its branch was set back, or created again"
        return Verified(remote=remote, is_ours=False, tip=tip, lacks=lost, detail=detail)
    if tip is None:
        lacks = len(repository.commits_between(None, head)) if head else 0
        return Verified(remote=remote, is_ours=True, tip=None, lacks=lacks, detail="has no such branch yet")
    if not repository.contains(tip, head):
        detail = "holds commits that we lack: ferry reconcile"
        return Verified(remote=remote, is_ours=False, tip=tip, lacks=0, detail=detail)
    lacks = len(repository.commits_between(tip, head)) if head else 0
    _remember(repository.path, remote, "verified_at")
    detail = f"lacks {lacks} of our commits" if lacks else "has everything"
    return Verified(remote=remote, is_ours=True, tip=tip, lacks=lacks, detail=detail)


def drill(
    settings: Settings,
    credentials: Credentials,
    repository: Repository,
    remote: str,
    *,
    read: Callable[[Repository], str],
) -> str:
    """
    Restore *remote* into a temporary place, check every object and read every record; says what was read.

    Args:
        read: Reads every record of a repository, and says how many there are.

    Raises:
        RepositoryError: What came back is not whole, or not ours.
    """
    place = _room_for_a_copy(repository.path)
    try:
        restored = clone.fetch_into(
            place / "restored.git",
            replace(settings, data_remote=settings.remotes[remote], data_mirrors={}),
            replace(credentials, remotes={ORIGIN: settings.remotes[remote]}),
        )
        tip = restored.head()
        if tip is None or not repository.contains(tip, repository.head()):
            raise RepositoryError(f"{remote} is at {tip}, which is not on our branch")
        inventory.check(restored.git, timeout_s=_WALK_TIMEOUT_S)
        records = read(restored)
    finally:
        shutil.rmtree(place, ignore_errors=True)
    _remember(repository.path, remote, "restored_at")
    return f"restored {tip}: every object is whole, {records}"


def _room_for_a_copy(repository: Path) -> Path:
    """
    Make a directory on the repository's volume, which has room; ``/tmp`` may be a small one in memory.
    """
    state = state_directory(repository)
    for left in state.glob("restored-*"):  # by one that was killed
        if time.time() - left.stat().st_mtime > _LONGEST_DRILL_S:
            shutil.rmtree(left, ignore_errors=True)
    return Path(tempfile.mkdtemp(prefix="restored-", dir=state))


def last(repository: Path, remote: str) -> dict[str, float]:
    """
    Return when *remote* was last verified and restored, in seconds since the epoch.
    """
    return dict(read_json(verified_record(repository, remote)))


def _remember(repository: Path, remote: str, what: str) -> None:
    path = verified_record(repository, remote)
    write_json(path, {**read_json(path), what: time.time()})
