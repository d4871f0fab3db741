"""
The data repository of one branch: read at any commit, and written by one commit at a time.

gitsheets validates records and renders them. Its own transactions are safe in one process only, flush
nothing to disk, and move the branch before the objects are safe. So Ferry holds one lock across all
processes, writes the objects itself (``ferry.app.store.trees``), and moves the branch by ``move_ref``, which
flushes them first.
"""

from __future__ import annotations

import contextlib
from collections.abc import Iterator, Sequence

from ferry.app.errors import BusyError, FencedError, SheetNotFoundError
from ferry.app.sheets.evaluation import Evaluations
from ferry.app.store.group_commit import GroupCommit
from ferry.app.store.limit import Limit
from ferry.app.store.listing import Listing
from ferry.app.store.rules import Check, Guard
from ferry.app.store.snapshot import Snapshot
from ferry.app.store.transaction import Transaction
from ferry.app.store.translation import translated
from ferry.app.store.unwritten import Unwritten
from ferry.worker.errors import RepositoryError
from ferry.worker.files.places import write_lock
from ferry.worker.git.refs import RefMovedError, move_ref
from ferry.worker.git.repository import Repository
from ferry.worker.repair.fence import is_fenced

_REHEARSAL_S = 20.0  # of extensions' code and of rendering what it has changed; nobody waits for a lock


class Store:
    """
    The data repository of one branch: many readers, one writer at a time.

    Args:
        repository: The bare repository and its branch.
        listing: Reads whole sheets, for extensions; default: one of its own.
    """

    def __init__(self, repository: Repository, listing: Listing | None = None) -> None:
        self._repository = repository
        self._listing = listing or Listing(repository)
        self._writers = GroupCommit(write_lock(repository.path), head=repository.head, land=self._land)

    def snapshot(self, evaluations: Evaluations | None = None) -> Snapshot:
        """
        Return the repository as it is now.

        Args:
            evaluations: Results from child processes; default: none.
        """
        return self._at(self._repository.head(), evaluations)

    @contextlib.contextmanager
    def commit(
        self,
        message: str,
        *,
        author: tuple[str, str],
        trailers: Sequence[tuple[str, str]] = (),
        evaluations: Evaluations | None = None,
        guard: Guard | None = None,
    ) -> Iterator[Transaction]:
        """
        Open a transaction; its changes become one durable commit when the block ends.

        An exception in the block discards everything. A block that changes nothing makes no commit: the
        transaction's ``commit`` stays None.

        Args:
            message: The commit's message, without trailers.
            author: Name and e-mail address.
            trailers: Key and value of each trailer.
            evaluations: Results from child processes; default: they are computed under the lock.
            guard: The rules that apply; default: none.

        Raises:
            NotEvaluatedError: *evaluations* lacks a result; see ``rehearsal``.
            BusyError: Another writer held the lock for half a minute, or one of git's lock files is in the
                way.
            DiskFullError: The disk is full; nothing was written.
            FencedError: Another repository is the primary.
            ExtensionTooSlowError: Extensions' code held the lock for too long; nothing was written.
        """
        self._refuse_fenced()
        limit = Limit()
        with self._writers.turn(limit if guard else None) as group:
            self._refuse_fenced()  # while we waited, a fence commit may have reached the branch
            before = self._at(group.tip, evaluations)
            if before.commit is None:
                raise self._nothing()
            transaction = self._transaction(before, before.commit, group.base, guard, limit, holds_turn=True)
            with (
                limit.running(f"{guard.extension}.transact")
                if guard and guard.extension
                else contextlib.nullcontext()
            ):
                yield transaction
            with translated():
                commit = transaction.finish(message, author=author, trailers=trailers)
            limit.keep()
            if commit is not None:
                group.tip = commit
        transaction.commit = commit

    def _refuse_fenced(self) -> None:
        if is_fenced(self._repository.path):
            raise FencedError("Another repository was made the primary; this one takes no writes.")

    def _at(self, commit: str | None, evaluations: Evaluations | None = None) -> Snapshot:
        return Snapshot.of(self._repository, commit, evaluations)

    @contextlib.contextmanager
    def repeat(self, commit: str, guard: Guard | None = None) -> Iterator[Transaction]:
        """
        Open a transaction on the parent of *commit*, to find out what it did. Commits nothing.

        Raises:
            RepositoryError: The commit cannot be read.
        """
        (made,) = self._repository.log(commit, limit=1)
        parent = made.parents[0]
        limit = Limit()
        try:
            yield self._transaction(self._at(parent), parent, parent, guard, limit)
        finally:
            limit.settle()

    @contextlib.contextmanager
    def rehearsal(self, evaluations: Evaluations, guard: Guard | None = None) -> Iterator[Transaction]:
        """
        Open a transaction on the branch's tip without the write lock. Commits nothing.

        Its records are evaluated in child processes, and *evaluations* then holds the results. Its objects
        are in memory alone, until ``keep`` stores them.
        """
        with self._open(evaluations, guard, Limit(_REHEARSAL_S)) as transaction:
            yield transaction

    def keep(self, rehearsed: Transaction) -> None:
        """
        Store the objects of a rehearsal, so that a transaction can adopt its changes.

        Raises:
            DiskFullError, RepositoryError: They cannot be stored.
        """
        with translated():
            if isinstance(rehearsed.objects, Unwritten):
                rehearsed.objects.store()

    @contextlib.contextmanager
    def trial(self, evaluations: Evaluations, guard: Guard | None = None) -> Iterator[Transaction]:
        """
        Open a transaction on the branch's tip that writes nothing, not even objects. Takes no lock.

        Raises:
            InvalidPathError: A file would have the path of another file or directory.
            FencedError: Another repository is the primary.
            ExtensionTooSlowError: Extensions' code has taken too long.
        """
        self._refuse_fenced()
        with self._open(evaluations, guard, Limit()) as transaction:
            yield transaction
            with translated():
                transaction.tree()

    @contextlib.contextmanager
    def _open(self, evaluations: Evaluations, guard: Guard | None, limit: Limit) -> Iterator[Transaction]:
        """
        Yield a transaction on the branch's tip whose objects are in memory alone.
        """
        objects = Unwritten(self._repository.objects, self._repository.git)
        before = Snapshot.of(self._repository, self._repository.head(), evaluations, objects=objects)
        if before.commit is None:
            raise self._nothing()
        try:
            with evaluations.looked_for():
                yield self._transaction(before, before.commit, before.commit, guard, limit)
        finally:
            limit.settle()

    def _transaction(
        self,
        before: Snapshot,
        parent: str,
        base: str | None,
        guard: Guard | None,
        limit: Limit,
        *,
        holds_turn: bool = False,
    ) -> Transaction:
        check = Check(guard, limit)
        return Transaction(before, parent, base, listing=self._listing, check=check, holds_turn=holds_turn)

    def _nothing(self) -> SheetNotFoundError:
        return SheetNotFoundError(f"The branch {self._repository.branch!r} has no commits, and so no sheets.")

    def _land(self, commit: str, parent: str | None) -> None:
        """
        Move the branch to *commit*, durably.

        Raises:
            BusyError: Another program has moved the branch, or has it locked.
        """
        repository = self._repository
        with translated():
            try:
                move_ref(repository.path, repository.ref, new=commit, old=parent)
            except RefMovedError:
                if repository.contains(commit, repository.head()):
                    return  # a thread of this process moved it, and was ended before it could report it
                raise
            try:
                head = repository.head()
            except RepositoryError:
                return  # the move is on the disk, although the branch cannot be read now
        if not repository.contains(commit, head):  # others may have committed on top of it already
            raise BusyError(f"Another program has moved {repository.ref} away from the commit {commit}.")
