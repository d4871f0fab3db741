"""
Keeping our commits off this machine while people decide about a divergence.

The head of the branch goes to a branch of its own on the same remote, ``rescue/BRANCH-UTC``, and
that branch follows the head for as long as the divergence lasts. It is never forced.
"""

from __future__ import annotations

from ferry.worker.dossier import in_one_line
from ferry.worker.errors import RepositoryError
from ferry.worker.files.moments import compact_utc
from ferry.worker.git.remote import Remote, ended_within_s
from ferry.worker.git.repository import Repository
from ferry.worker.ledger.ledger import Claim
from ferry.worker.observe.logs import log
from ferry.worker.settings import Settings


def rescue(claim: Claim, settings: Settings, repository: Repository, head: str, now: float) -> None:
    """
    Put *head* on the rescue branch of the claimed remote, or bring that branch forward to it.

    Args:
        now: Seconds since the epoch, for the name of a new branch.
    """
    remote, entry = claim.remote, claim.entry
    if not settings.push_rescue or entry.rescued == head:
        return
    claim.begin(ended_within_s(settings.push_timeout_s))
    name = entry.rescue or f"rescue/{repository.branch}-{compact_utc(now)}"
    try:
        there = Remote(repository, remote, timeout_s=settings.push_timeout_s)
        with claim.pushing() as noted:
            finished = there.push(head, branch=name, noted=noted)
        verdict = finished.verdict
        landed, detail = verdict.landed, in_one_line(finished, verdict)
    except RepositoryError as exc:
        landed, detail = False, str(exc)
    if landed:
        claim.write(rescue=name, rescued=head)
        log().info("push.rescued", remote=remote, branch=name, commit=head)
    else:
        # No commit is lost by that: they wait in the data repository as well.
        log().warning("push.rescue_failed", remote=remote, branch=name, commit=head, error=detail)
