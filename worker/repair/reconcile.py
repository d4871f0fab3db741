"""
Joining the branch with a remote that holds commits which it lacks.

gitsheets merges and rebases, record by record and field by field. It moves refs
before objects are on disk and knows no lock, so here it works on commits that
no branch names yet; under the write lock the result is flushed, and the branch
moved to it. No side is lost: where our commits would no longer be in the branch
they are kept as ``conflicts/UTC``, and that is on the remote before the branch moves.
"""

from __future__ import annotations

import shutil
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, Literal, NoReturn

import gitsheets

from ferry.worker.apart import ApartError, CrowdedError, Limit, OverrunError, Pool
from ferry.worker.errors import ReconcileError, RepositoryError, WorkerError
from ferry.worker.files.locks import FileLock, LockTimeoutError
from ferry.worker.files.moments import compact_utc
from ferry.worker.files.places import rebase_view
from ferry.worker.files.sharing import share_all
from ferry.worker.git.divergence import Divergence, survey
from ferry.worker.git.prepare import COMMITTER
from ferry.worker.git.refs import RefError, move_ref
from ferry.worker.git.remote import Remote, ended_within_s
from ferry.worker.git.repository import Repository
from ferry.worker.ledger.ledger import Ledger
from ferry.worker.observe.logs import log
from ferry.worker.repair.merging import merged
from ferry.worker.settings import ORIGIN, Settings

State = Literal["in-sync", "fast-forwarded", "ahead", "rebased", "merged", "conflict", "fetch-failed"]
Strategy = Literal["fast-forward", "merge", "rebase", "preserve"]

_SCRATCH_REF = "refs/heads/scratch"
_FORMER_SCRATCH_REF = "refs/ferry/reconcile"  # of earlier releases, in the data repository itself
_WRITE_LOCK_TIMEOUT_S = 30.0
# A writer waits half a minute for the lock; what is done under it must take less.
_PRESERVE_TIMEOUT_S = 20.0
_MERGE = Limit(cpu_s=20.0, wall_s=25.0, memory_bytes=1 << 30)
# Writers and pushes wait for a merge, so its process gives way to nothing.
_mergers = Pool(nice=0)
# What joining takes at the most, beside two visits to the remote.
JOIN_S = 4 * _WRITE_LOCK_TIMEOUT_S


@dataclass(frozen=True, slots=True, kw_only=True)
class Conflict:
    """
    A record, or one field of it, that both sides changed differently.

    Attributes:
        path: The file's path in the tree.
        kind: ``field``, ``delete-modify``, or ``blob`` for what is no record.
        field: The field's name, where it is one.
    """

    path: str
    kind: str
    field: str | None = None

    def __str__(self) -> str:
        return f"{self.path}: {self.field or self.kind}"


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
        conflicts: What both changed differently.
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
    kept_as: str | None = None
    detail: str = ""

    @property
    def is_joined(self) -> bool:
        """
        Whether the remote can take the branch by a fast-forward.
        """
        return self.state not in ("conflict", "fetch-failed")

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
            "conflicts": [
                {"path": conflict.path, "kind": conflict.kind, "field": conflict.field}
                for conflict in self.conflicts
            ],
            "kept_as": self.kept_as,
            "detail": self.detail,
            **(self.divergence.as_json() if self.divergence else {}),
        }


class Reconciler:
    """
    Joins the branch of one repository with its remotes'.

    Args:
        settings: Timeouts, and when to reconcile without being asked.
        repository: The data repository.
        ledger: Whose claim keeps pushes away meanwhile.
        write_lock: What every writer of the repository holds.
        clock: Seconds since the epoch.
    """

    def __init__(
        self,
        settings: Settings,
        repository: Repository,
        ledger: Ledger,
        write_lock: FileLock,
        *,
        clock: Callable[[], float] = time.time,
    ) -> None:
        self._settings = settings
        self._repository = repository
        self._ledger = ledger
        self._write_lock = write_lock
        self._timeout_s = settings.push_timeout_s
        self._clock = clock

    def reconcile(self, remote: str, strategy: Strategy, *, dry_run: bool = False) -> Outcome:
        """
        Fetch from *remote* and join the branch with it, once the push that runs has ended.

        Args:
            remote: Name of a configured remote.
            strategy: What to do where both sides have commits of their own:
                ``fast-forward`` leaves them apart; ``merge`` makes one commit of both;
                ``rebase`` makes ours anew on top of theirs; ``preserve`` does so too, and
                where that conflicts takes theirs and sets ours aside.
            dry_run: Only say what would come of it.

        Raises:
            RemoteBusyError: The push did not end in time.
            ReconcileError: A writer did not end in time; or what would be replaced could not be
                put on the remote first. Nothing was changed.
            RepositoryError: git could not.
        """
        outcome = self._claim_and_join(remote, strategy, dry_run=dry_run)
        ours, theirs = outcome.before, outcome.remote_head
        if ours is None or theirs is None or not self._is_apart(ours, theirs):
            return outcome
        # For people, and read once nothing waits for us: neither a writer nor a push.
        return replace(outcome, divergence=survey(self._repository, ours, theirs))

    def at_start(self) -> None:
        """
        Reconcile with origin by a merge, where the settings want that at a start.
        """
        if self._settings.data_reconcile == "manual" or ORIGIN not in self._settings.remotes:
            return
        try:
            self._claim_and_join(ORIGIN, "merge", dry_run=False)
        except WorkerError as exc:
            log().warning("reconcile.failed", remote=ORIGIN, error=str(exc))

    def _claim_and_join(self, remote: str, strategy: Strategy, *, dry_run: bool) -> Outcome:
        with self._ledger.claim_within(remote, self._timeout_s) as claim:
            claim.begin(JOIN_S + 2 * ended_within_s(self._timeout_s))
            return self.join(remote, strategy, dry_run=dry_run)

    def join(self, remote: str, strategy: Strategy, *, dry_run: bool = False) -> Outcome:
        """
        Do what ``reconcile`` does, for whoever holds the claim on *remote*; without the ``divergence``.
        """
        outcome = Outcome(state="ahead", remote=remote, branch=self._repository.branch)
        there = Remote(self._repository, remote, timeout_s=self._timeout_s)
        try:
            theirs = there.fetch() if there.ask() is not None else None
        except RepositoryError as exc:
            head = self._repository.head()
            return replace(outcome, state="fetch-failed", before=head, after=head, detail=str(exc))
        ours = self._repository.head()
        outcome = replace(outcome, before=ours, after=ours, remote_head=theirs)
        if endless := self._endless(ours, theirs, strategy):
            return replace(outcome, state="conflict", detail=endless)
        with self._alone(remote):
            ours = self._repository.head()
            outcome = self._join(replace(outcome, before=ours, after=ours), strategy, dry_run=dry_run)
        if not dry_run and outcome.state not in ("in-sync", "ahead"):
            log().info(
                "reconcile.done",
                remote=remote,
                state=outcome.state,
                strategy=strategy,
                before=outcome.before,
                after=outcome.after,
                kept_as=outcome.kept_as,
                conflicts=len(outcome.conflicts),
            )
        return outcome

    def _endless(self, ours: str | None, theirs: str | None, strategy: Strategy) -> str:
        """
        Say why a merge would not come to its end under the write lock, where writers wait for it; else "".
        """
        if strategy == "fast-forward" or ours is None or theirs is None:
            return ""
        tried = self._try_merge(ours, theirs, message="") if self._is_apart(ours, theirs) else None
        return tried.detail if tried and tried.ran_out else ""

    def _is_apart(self, ours: str, theirs: str) -> bool:
        contains = self._repository.contains
        return not contains(theirs, ours) and not contains(ours, theirs)

    def _join(self, outcome: Outcome, strategy: Strategy, *, dry_run: bool) -> Outcome:
        ours, theirs, contains = outcome.before, outcome.remote_head, self._repository.contains
        if theirs is None or (ours is not None and contains(theirs, ours)):
            return replace(outcome, state="in-sync" if ours == theirs else "ahead")
        if ours is None or contains(ours, theirs):
            return self._moved(replace(outcome, state="fast-forwarded", after=theirs), dry_run=dry_run)
        if strategy == "fast-forward":
            return replace(outcome, state="conflict", detail="both sides have commits that the other lacks")
        if strategy == "merge":
            return self._merge(outcome, ours, theirs, dry_run=dry_run)
        return self._rebase(outcome, ours, theirs, dry_run=dry_run, preserve=strategy == "preserve")

    def _merge(self, outcome: Outcome, ours: str, theirs: str, *, dry_run: bool) -> Outcome:
        message = f"Merge {self._repository.branch} of {outcome.remote}"
        found = self._try_merge(ours, theirs, message=message)
        if found.conflicts or found.detail:
            return replace(
                outcome,
                state="conflict",
                conflicts=found.conflicts,
                detail=found.detail or "records conflict",
            )
        return self._moved(replace(outcome, state="merged", after=found.commit), dry_run=dry_run)

    def _rebase(self, outcome: Outcome, ours: str, theirs: str, *, dry_run: bool, preserve: bool) -> Outcome:
        rebased = self._try_rebase(ours, theirs)
        if rebased is not None:
            kept_as = self._keep(outcome.remote, ours, dry_run=dry_run)
            return self._moved(
                replace(outcome, state="rebased", after=rebased, kept_as=kept_as), dry_run=dry_run
            )
        found = self._try_merge(ours, theirs, message="")
        outcome = replace(outcome, state="conflict", conflicts=found.conflicts)
        if not preserve:
            return replace(outcome, detail=found.detail or "a commit of ours does not fit on top of theirs")
        kept_as = self._keep(outcome.remote, ours, dry_run=dry_run)
        detail = f"the branch is what {outcome.remote} has; our commits are set aside on {kept_as}"
        return self._moved(replace(outcome, after=theirs, kept_as=kept_as, detail=detail), dry_run=dry_run)

    def _try_merge(self, ours: str, theirs: str, *, message: str) -> _Merged:
        """
        Merge, apart: gitsheets opens the sheets for it, which may run what their declarations hold.
        """
        place = str(self._repository.path), self._repository.root
        try:
            found = _mergers.call(
                merged, *place, ours, theirs, int(self._clock()), message, COMMITTER, limit=_MERGE
            )
        except gitsheets.GitsheetsError as exc:  # no common history
            return _Merged(commit=None, conflicts=(), detail=str(exc))
        except OverrunError as exc:
            detail = f"the records cannot be merged: {exc}"
            return _Merged(commit=None, conflicts=(), detail=detail, ran_out=True)
        except (CrowdedError, ApartError) as exc:
            raise RepositoryError(f"cannot merge: {exc}") from exc
        conflicts = [
            Conflict(path=each["path"], kind=each["kind"], field=each["field"]) for each in found["conflicts"]
        ]
        return _Merged(commit=found["commit"], conflicts=tuple(conflicts), detail="")

    def _try_rebase(self, ours: str, theirs: str) -> str | None:
        """
        Return our last commit as it is on top of *theirs*, or None where one of ours conflicts.
        """
        with suppress(RepositoryError):  # it is in nobody's way
            self._repository.remove_ref(_FORMER_SCRATCH_REF)
        try:
            scratch = self._scratch(ours)
            found = gitsheets.sync_branch(
                str(scratch),
                _SCRATCH_REF,
                theirs,
                int(self._clock()),
                on_conflict="fail",
                committer=COMMITTER,
            )
        except gitsheets.GitsheetsError:  # no common history
            return None
        except OSError as exc:
            _fail(exc)
        return str(found["new_commit"]) if found["outcome"] == "rebased" else None

    def _scratch(self, head: str) -> Path:
        """
        Make a repository over the same objects whose one ref is at *head*.

        A ref that a killed rebase leaves there concerns neither git nor the next rebase.
        """
        scratch = rebase_view(self._repository.path)
        shutil.rmtree(scratch, ignore_errors=True)
        ref = scratch / _SCRATCH_REF
        ref.parent.mkdir(parents=True)
        ref.write_text(f"{head}\n")
        (scratch / "HEAD").write_text(f"ref: {_SCRATCH_REF}\n")
        (scratch / "config").write_text("[core]\n\trepositoryformatversion = 0\n\tbare = true\n")
        (scratch / "objects").symlink_to("../../objects")
        share_all(str(self._repository.path), scratch)
        return scratch

    def _keep(self, remote: str, commit: str, *, dry_run: bool) -> str:
        """
        Put *commit* on a branch of its own, there and here; returns the branch's name.
        """
        name = f"conflicts/{compact_utc(self._clock())}"
        if dry_run:
            return name
        there = Remote(self._repository, remote, timeout_s=min(self._timeout_s, _PRESERVE_TIMEOUT_S))
        verdict = there.push(commit, branch=name).verdict
        if not verdict.landed:
            raise ReconcileError(
                f"{remote} did not take the branch {name} that keeps our commits safe "
                f"({verdict.evidence or verdict.reason}); nothing was changed. "
                "The strategy merge needs no such branch"
            )
        self._move(f"refs/heads/{name}", new=commit, old=None)
        return name

    def _moved(self, outcome: Outcome, *, dry_run: bool) -> Outcome:
        if dry_run or outcome.after is None:
            return outcome
        self._move(self._repository.ref, new=outcome.after, old=outcome.before)
        return outcome

    def _move(self, ref: str, *, new: str, old: str | None) -> None:
        try:
            move_ref(self._repository.path, ref, new=new, old=old)
        except (RefError, OSError) as exc:
            _fail(exc)

    @contextmanager
    def _alone(self, remote: str) -> Iterator[None]:
        try:
            with self._write_lock.hold(_WRITE_LOCK_TIMEOUT_S):
                yield
        except LockTimeoutError as exc:
            raise ReconcileError(f"cannot reconcile with {remote}: {exc}") from exc


@dataclass(frozen=True, slots=True, kw_only=True)
class _Merged:
    commit: str | None
    conflicts: tuple[Conflict, ...]
    detail: str
    ran_out: bool = False


def _fail(exc: Exception) -> NoReturn:
    raise RepositoryError(f"cannot reconcile: {exc}") from exc
