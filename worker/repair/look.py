"""
Looking at a remote: where its branch stands, and whether others rewrote its history.

Whoever asks a remote does it here: a push whose end is in doubt or that was refused, a sweep, a start, an
operator, and the task that follows origin.
"""

from __future__ import annotations

from ferry.worker.git.remote import Remote, Seen, ended_within_s
from ferry.worker.git.repository import Repository
from ferry.worker.ledger.entry import Entry
from ferry.worker.ledger.ledger import Claim
from ferry.worker.repair.fence import look_for_fence
from ferry.worker.settings import ORIGIN


def look(claim: Claim, repository: Repository, *, timeout_s: float, now: float) -> Seen:
    """
    Ask the claimed remote where its branch stands, fetch what is new there, and remember both.

    Args:
        timeout_s: Seconds that the fetch may take.
        now: Seconds since the epoch.

    Raises:
        RepositoryError: The remote did not answer, or what is there could not be fetched.
    """
    claim.begin(2 * ended_within_s(timeout_s))
    seen = Remote(repository, claim.remote, timeout_s=timeout_s).look()
    if claim.remote == ORIGIN:
        look_for_fence(repository, seen.tip)
    claim.write(seen_at=now, rewritten=_rewritten(claim.entry, repository, seen))
    return seen


def _rewritten(entry: Entry, repository: Repository, seen: Seen) -> str | None:
    """
    Return the commit that the remote's branch had held and no longer does, although it holds others that we
    lack; None: a push can bring all of ours, or joining the two is what is needed.
    """
    tip, known, contains = seen.tip, seen.known, repository.contains
    if tip is None or contains(tip, repository.head()):
        return None
    held = known if known is not None and not contains(known, tip) else entry.rewritten
    return None if held is None or contains(held, tip) else held
