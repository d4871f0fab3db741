"""
Joining the branch with a remote that holds commits which it lacks.

gitsheets merges (see ``merger``) and rebases (see ``rebasing``), record by record and
field by field. It moves refs before objects are on disk and knows no lock, so here it
works on commits that no branch names yet; under the write lock the result is flushed,
and the branch moved to it. No side is lost: where our commits would no longer be in the branch
they are kept as ``conflicts/UTC``, and that is on the remote before the branch moves.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import asdict, dataclass, replace
from functools import cache, partial
from typing import Any, Literal

from ferry.worker.errors import ReconcileError, RepositoryError, TakeError, WorkerError
from ferry.worker.files.locks import FileLock, LockTimeoutError
from ferry.worker.files.moments import compact_utc
from ferry.worker.git.divergence import Divergence, survey
from ferry.worker.git.refs import RefError, move_ref
from ferry.worker.git.remote import Remote, ended_within_s
from ferry.worker.git.repository import Repository
from ferry.worker.hosting.merges import MergeRules
from ferry.worker.ledger.entry import Refusal, RefusedMerge
from ferry.worker.ledger.events import Kind
from ferry.worker.ledger.ledger import Claim, Ledger
from ferry.worker.ledger.operators import FERRY, Operator, remember
from ferry.worker.observe.logs import log
from ferry.worker.repair.fence import is_fenced
from ferry.worker.repair.look import look
from ferry.worker.repair.merger import Change, Conflict, Merged, Merger, Reviewer, Takes, refuse_unknown
from ferry.worker.repair.rebasing import rebased
from ferry.worker.repair.received import send_on, tell_received
from ferry.worker.settings import ORIGIN, Settings

State = Literal[
    "in-sync", "fast-forwarded", "ahead", "rebased", "merged", "conflict", "refused", "fetch-failed"
]
Strategy = Literal["fast-forward", "merge", "rebase", "preserve"]

_WRITE_LOCK_TIMEOUT_S = 30.0
# A writer waits half a minute for the lock; what is done under it must take less.
_PRESERVE_TIMEOUT_S = 20.0
# What joining takes at the most, beside two visits to the remote.
JOIN_S = 5 * _WRITE_LOCK_TIMEOUT_S
# A merge that a rule refuses is not made unasked, until either side moves or this is over: the rule may have
# been corrected.
_REFUSED_FOR_S = 600.0


@dataclass(frozen=True, slots=True, kw_only=True)
class Outcome:
    """
    What came of a reconcile, or would come of it.

    Attributes:
        state: What the branch is to the remote now.
        remote: Name of the remote.
        branch: Short name of the branch.
        before: Where the branch stood.
        remote_head: Where the remote's stands.
        after: Where the branch stands now.
        divergence: What each side had alone, where they had gone apart.
        conflicts: What both changed differently, and an operator has to decide.
        refusal: Which rule of an extension refuses the merge, and why.
        tree: The tree with what an operator has decided of the conflicts, where some are left; or that of a
            merge that is refused.
        changes: What either side changed, field by field; at most two hundred files, those in conflict first.
        changes_left_out: How many more files were changed.
        kept_as: The branch, here and on the remote, that holds what the branch no longer does.
        detail: Why it could not be done, or "".
    """

    state: State
    remote: str
    branch: str
    before: str | None = None
    remote_head: str | None = None
    after: str | None = None
    divergence: Divergence | None = None
    conflicts: tuple[Conflict, ...] = ()
    refusal: Refusal | None = None
    tree: str | None = None
    changes: tuple[Change, ...] = ()
    changes_left_out: int = 0
    kept_as: str | None = None
    detail: str = ""

    @property
    def is_joined(self) -> bool:
        """
        Whether the remote can take the branch by a fast-forward.
        """
        return self.state not in ("conflict", "refused", "fetch-failed")

    @property
    def is_unrelated(self) -> bool:
        """
        Whether both sides share no history.
        """
        return self.divergence is not None and self.divergence.base is None

    def as_json(self) -> dict[str, Any]:
        """
        Return the outcome as plain data.
        """
        return {
            "state": self.state,
            "remote": self.remote,
            "branch": self.branch,
            "local_head_before": self.before,
            "local_head": self.after,
            "remote_head": self.remote_head,
            "conflicts": [asdict(conflict) for conflict in self.conflicts],
            "refusal": self.refusal and asdict(self.refusal),
            "changes": [asdict(change) for change in self.changes],
            "changes_left_out": self.changes_left_out,
            "kept_as": self.kept_as,
            "detail": self.detail,
            **(self.divergence.as_json() if self.divergence else {}),
        }


@dataclass(frozen=True, slots=True, kw_only=True)
class _How:
    """
    How to join: as ``Reconciler.reconcile`` has it.
    """

    strategy: Strategy
    dry_run: bool = False
    takes: Takes | None = None
    by: Operator = FERRY


class Reconciler:
    """
    Joins the branch of one repository with its remotes'.

    Attributes:
        rules: The rules of extensions, which a merge asks.

    Args:
        settings: Timeouts, and when to reconcile without being asked.
        repository: The data repository.
        ledger: Whose claim keeps pushes away meanwhile.
        write_lock: What every writer of the repository holds.
        rules: The same; None: there are none.
        send: Queues a push of a commit to a remote; may raise what the broker's library does.
        clock: Seconds since the epoch.
    """

    def __init__(
        self,
        settings: Settings,
        repository: Repository,
        ledger: Ledger,
        write_lock: FileLock,
        *,
        rules: MergeRules | None = None,
        send: Callable[[str, str], object] = lambda remote, commit: None,
        clock: Callable[[], float] = time.time,
    ) -> None:
        self._settings = settings
        self._repository = repository
        self._ledger = ledger
        self._write_lock = write_lock
        self._send = send
        self._timeout_s = settings.push_timeout_s
        self._clock = clock
        self.rules = rules or MergeRules(settings, {})
        self._merger = Merger(repository, clock)

    def reconcile(
        self,
        remote: str,
        strategy: Strategy,
        *,
        dry_run: bool = False,
        takes: Takes | None = None,
        compares: bool = False,
        by: Operator = FERRY,
        is_unasked: bool = False,
    ) -> Outcome:
        """
        Fetch from *remote* and join the branch with it, once the push that runs has ended.

        Args:
            remote: Name of a configured remote.
            strategy: What to do where both sides have commits of their own:
                ``fast-forward`` leaves them apart; ``merge`` makes one commit of both;
                ``rebase`` makes ours anew on top of theirs; ``preserve`` does so too, and
                where that conflicts takes theirs and sets ours aside.
            dry_run: Only say what would come of it.
            takes: What an operator decided of the conflicts of a merge.
            compares: Whether to say field by field what each side changed.
            by: Who asks for it.
            is_unasked: Whether no operator does: a history that was rewritten is not merged then.

        Raises:
            RemoteBusyError: The push did not end in time.
            ReconcileError: A writer did not end in time, or what would be replaced could not be
                put on the remote first. Nothing was changed.
            TakeError: *takes* do not fit the conflicts. Nothing was changed.
            RepositoryError: git could not.
        """
        how = _How(strategy=strategy, dry_run=dry_run, takes=takes, by=by)
        outcome = self._claim_and_join(remote, how, is_unasked=is_unasked)
        ours, theirs = outcome.before, outcome.remote_head
        if ours is None or theirs is None:
            return outcome
        # For people, and read once nothing waits for us: neither a writer nor a push.
        if _is_apart(self._repository, ours, theirs):
            outcome = replace(outcome, divergence=survey(self._repository, ours, theirs))
        return _compared(self._repository, self._merger, outcome, ours, theirs) if compares else outcome

    def at_start(self) -> None:
        """
        Reconcile with origin by a merge, where the settings want that at a start.
        """
        if self._settings.data_reconcile == "manual" or ORIGIN not in self._settings.remotes:
            return
        try:
            self._claim_and_join(ORIGIN, _How(strategy="merge"), is_unasked=True)
        except WorkerError as exc:
            log().warning("reconcile.failed", remote=ORIGIN, error=str(exc))

    def take_over(self, claim: Claim, tip: str | None) -> Outcome | None:
        """
        Join the branch with *tip*, the claimed remote's, as far as Ferry does so unasked: with origin's, by a
        fast-forward, and by a merge where the settings say so and no history was rewritten.

        Returns:
            None where there is nothing to take over, or an operator decides.

        Raises:
            ReconcileError, RepositoryError: As ``reconcile``.
        """
        head, contains = self._repository.head(), self._repository.contains
        if claim.remote != ORIGIN or tip is None or contains(tip, head):
            return None
        is_ours = claim.entry.rewritten is None and not is_fenced(self._repository.path)
        merges = self._settings.data_reconcile == "auto" and is_ours
        if head is not None and not merges and not contains(head, tip):
            return None
        claim.begin(JOIN_S)
        return self._join_claimed(claim, tip, _How(strategy="merge" if merges else "fast-forward"))

    def _claim_and_join(self, remote: str, how: _How, *, is_unasked: bool) -> Outcome:
        with self._ledger.claim_within(remote, self._timeout_s) as claim:
            try:
                tip = look(claim, self._repository, timeout_s=self._timeout_s, now=self._clock()).tip
            except RepositoryError as exc:
                return _not_fetched(self._repository, remote, exc)
            claim.begin(JOIN_S + ended_within_s(self._timeout_s))
            if is_unasked and (claim.entry.rewritten or is_fenced(self._repository.path)):
                how = replace(how, strategy="fast-forward")  # a merge would put back what others have removed
            return self._join_claimed(claim, tip, how, recalls=is_unasked)

    def _join_claimed(self, claim: Claim, theirs: str | None, how: _How, *, recalls: bool = True) -> Outcome:
        """
        Join the branch, and note a merge that a rule refuses.

        Args:
            recalls: Whether not to ask again for a merge that was refused.
        """
        ours, refused = self._repository.head(), claim.entry.refused
        is_known = refused is not None and (refused.ours, refused.theirs) == (ours, theirs)
        if recalls and refused and is_known and 0 <= self._clock() - refused.at < _REFUSED_FOR_S:
            return _stopped(
                _standing(self._repository, claim.remote, theirs), Merged(refusal=refused.refusal)
            )
        outcome = self._join_with(claim.remote, theirs, how)
        if not how.dry_run and (outcome.refusal or refused):
            claim.write(refused=_refused(outcome, self._clock()))
        return outcome

    def fast_forward(self, remote: str, theirs: str | None) -> Outcome:
        """
        Fast-forward the branch to *theirs*, for the holder of the claim on *remote*.

        Args:
            theirs: The remote's tip, which was fetched; None: the remote has no such branch.

        Raises:
            ReconcileError, RepositoryError: As ``reconcile``.
        """
        return self._join_with(remote, theirs, _How(strategy="fast-forward"))

    def _join_with(self, remote: str, theirs: str | None, how: _How) -> Outcome:
        if self._settings.is_replica and how.strategy != "fast-forward":
            raise ReconcileError("a replica is only ever fast-forwarded; reconcile on the primary")
        outcome = _standing(self._repository, remote, theirs)
        if not how.takes and (theirs is None or _is_here(self._repository, theirs, outcome.before)):
            return _level(outcome)  # our branch only grows: no writer need wait for that
        reviewer = cache(partial(self.rules.review, by=how.by))  # a writer in between is all that asks twice
        stopped = self._rehearsed(outcome, how, reviewer)
        if stopped is None:
            with self._alone(remote):
                outcome = self._join(_standing(self._repository, remote, theirs), how, reviewer)
        else:
            outcome = stopped
        if not how.dry_run and outcome.state not in ("in-sync", "ahead"):
            self._tell(outcome, how)
        return outcome

    def _tell(self, outcome: Outcome, how: _How) -> None:
        now, before, after = self._clock(), outcome.before, outcome.after
        if after is not None and after != before:
            send_on(self._settings, outcome.remote, after, self._send)
        if how.by is FERRY and after is not None and outcome.state == "fast-forwarded":
            tell_received(self._repository, self._ledger, outcome.remote, before, after, now=now)
        else:
            _tell_joined(self._ledger, outcome, how, now=now)

    def _rehearsed(self, outcome: Outcome, how: _How, reviewer: Reviewer) -> Outcome | None:
        """
        Return what comes of a merge that takes too long or is refused, before writers wait for it; else None.
        """
        ours, theirs, strategy = outcome.before, outcome.remote_head, how.strategy
        if strategy == "fast-forward" or not (ours and theirs and _is_apart(self._repository, ours, theirs)):
            return None
        if strategy == "merge":
            tried = self._merger.merge(ours, theirs, message="", takes=how.takes, reviewer=reviewer)
        else:
            tried = self._merger.merge(ours, theirs, message="", takes=how.takes)
        return _stopped(outcome, tried) if tried.ran_out or tried.refusal else None

    def _join(self, outcome: Outcome, how: _How, reviewer: Reviewer) -> Outcome:
        ours, theirs, contains = outcome.before, outcome.remote_head, self._repository.contains
        if how.takes and how.strategy != "merge":
            raise TakeError("a side is taken of the conflicts of a merge; nothing was changed")
        if ours is None or theirs is None or not _is_apart(self._repository, ours, theirs):
            refuse_unknown(how.takes or {}, ())
        if theirs is None or _is_here(self._repository, theirs, ours):
            return _level(outcome)
        if ours is None or contains(ours, theirs):
            return self._moved(replace(outcome, state="fast-forwarded", after=theirs), how)
        if how.strategy == "fast-forward":
            return replace(outcome, state="conflict", detail="both sides have commits that the other lacks")
        if how.strategy != "merge":
            return self._rebase(outcome, ours, theirs, how)
        message = f"Merge {self._repository.branch} of {outcome.remote}"
        found = self._merger.merge(ours, theirs, message=message, takes=how.takes, reviewer=reviewer)
        if found.commit is None:
            return _stopped(outcome, found)
        return self._moved(replace(outcome, state="merged", after=found.commit), how)

    def _rebase(self, outcome: Outcome, ours: str, theirs: str, how: _How) -> Outcome:
        tip = rebased(self._repository, ours, theirs, int(self._clock()))
        if tip is not None:
            kept_as = self._keep(outcome.remote, ours, how)
            return self._moved(replace(outcome, state="rebased", after=tip, kept_as=kept_as), how)
        found = self._merger.merge(ours, theirs, message="")
        outcome = replace(outcome, state="conflict", conflicts=found.conflicts)
        if how.strategy != "preserve":
            return replace(outcome, detail=found.detail or "a commit of ours does not fit on top of theirs")
        kept_as = self._keep(outcome.remote, ours, how)
        return self._moved(replace(outcome, after=theirs, kept_as=kept_as), how)

    def _moved(self, outcome: Outcome, how: _How) -> Outcome:
        if how.dry_run or outcome.after is None:
            return outcome
        _move(self._repository, self._repository.ref, new=outcome.after, old=outcome.before)
        return outcome

    def _keep(self, remote: str, commit: str, how: _How) -> str:
        """
        Put *commit* on a branch of its own, there and here; returns the branch's name.
        """
        name = f"conflicts/{compact_utc(self._clock())}"
        if not how.dry_run:
            timeout_s = min(self._timeout_s, _PRESERVE_TIMEOUT_S)
            _preserve(Remote(self._repository, remote, timeout_s=timeout_s), self._repository, commit, name)
        return name

    @contextmanager
    def _alone(self, remote: str) -> Iterator[None]:
        try:
            with self._write_lock.hold(_WRITE_LOCK_TIMEOUT_S):
                yield
        except LockTimeoutError as exc:
            raise ReconcileError(f"cannot reconcile with {remote}: {exc}") from exc


def _standing(repository: Repository, remote: str, theirs: str | None) -> Outcome:
    """
    Return the outcome before anything is done.
    """
    head, branch = repository.head(), repository.branch
    return Outcome(state="ahead", remote=remote, branch=branch, before=head, after=head, remote_head=theirs)


def _preserve(there: Remote, repository: Repository, commit: str, name: str) -> None:
    verdict = there.push(commit, branch=name).verdict
    if not verdict.landed:
        raise ReconcileError(
            f"{there.name} did not take the branch {name} that keeps our commits safe "
            f"({verdict.evidence or verdict.reason}); nothing was changed. "
            "The strategy merge needs no such branch"
        )
    _move(repository, f"refs/heads/{name}", new=commit, old=None)


def _move(repository: Repository, ref: str, *, new: str, old: str | None) -> None:
    try:
        move_ref(repository.path, ref, new=new, old=old)
    except (RefError, OSError) as exc:
        raise RepositoryError(f"cannot reconcile: {exc}") from exc


def _not_fetched(repository: Repository, remote: str, exc: Exception) -> Outcome:
    head, branch = repository.head(), repository.branch
    return Outcome(
        state="fetch-failed", remote=remote, branch=branch, before=head, after=head, detail=str(exc)
    )


def _compared(repository: Repository, merger: Merger, outcome: Outcome, ours: str, theirs: str) -> Outcome:
    """
    Add to *outcome* what each side changed since they parted, and what comes of it.
    """
    parted = outcome.divergence
    base = parted.base if parted else repository.merge_base(ours, theirs)
    if base in (None, theirs):
        return outcome
    paths = parted.files if parted else repository.files_changed(base, theirs)
    is_open = outcome.after == ours  # else the result holds one side of each conflict
    result, conflicts = (outcome.tree, outcome.conflicts) if is_open else (outcome.after, ())
    try:
        changes = merger.compare((base, ours, theirs, result), conflicts=conflicts, paths=paths)
    except RepositoryError as exc:
        log().warning("reconcile.not_compared", remote=outcome.remote, error=str(exc))
        return outcome
    return replace(outcome, changes=changes, changes_left_out=len(paths) - len(changes))


def _is_here(repository: Repository, theirs: str, ours: str | None) -> bool:
    return ours is not None and repository.contains(theirs, ours)


def _is_apart(repository: Repository, ours: str, theirs: str) -> bool:
    return not _is_here(repository, theirs, ours) and not _is_here(repository, ours, theirs)


def _level(outcome: Outcome) -> Outcome:
    return replace(outcome, state="in-sync" if outcome.before == outcome.remote_head else "ahead")


def _stopped(outcome: Outcome, found: Merged) -> Outcome:
    """
    Return the outcome of a merge that is not made.
    """
    return replace(
        outcome,
        state="refused" if found.refusal else "conflict",
        conflicts=found.conflicts,
        refusal=found.refusal,
        tree=found.tree,
        detail=str(found.refusal or found.detail),
    )


def _refused(outcome: Outcome, now: float) -> RefusedMerge | None:
    ours, theirs, refusal = outcome.before, outcome.remote_head, outcome.refusal
    if refusal is None or ours is None or theirs is None:
        return None
    return RefusedMerge(ours=ours, theirs=theirs, at=now, refusal=refusal)


def _tell_joined(ledger: Ledger, outcome: Outcome, how: _How, *, now: float) -> None:
    by, strategy = how.by, how.strategy
    log().info(
        "reconcile.done",
        remote=outcome.remote,
        state=outcome.state,
        strategy=strategy,
        before=outcome.before,
        after=outcome.after,
        kept_as=outcome.kept_as,
        conflicts=len(outcome.conflicts),
        by=by.who,
        why=by.why,
    )
    if by is FERRY and outcome.state != "merged":
        return  # nothing has changed
    kind: Kind = "not-reconciled" if outcome.after == outcome.before else "reconciled"
    remember(ledger, outcome.remote, kind, by, now=now, detail=f"{strategy}: {_told(outcome)}")


def _told(outcome: Outcome) -> str:
    """
    Return what came of a reconcile, for the history.
    """
    if outcome.after == outcome.before:
        places = ", ".join(map(str, outcome.conflicts))
        return f"nothing was changed: {f'both sides changed {places}' if places else outcome.detail}"
    kept = f"; ours are kept as {outcome.kept_as}" if outcome.kept_as else ""
    done = "the remote's side was taken" if outcome.state == "conflict" else outcome.state
    return f"{done}, from {outcome.before} to {outcome.after}{kept}"
