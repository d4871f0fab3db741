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

from ferry.app.errors import BusyError, SheetNotFoundError
from ferry.app.sheets.evaluation import Evaluations
from ferry.app.store.group_commit import GroupCommit
from ferry.app.store.snapshot import Snapshot
from ferry.app.store.transaction import Transaction
from ferry.app.store.translation import translated
from ferry.worker.errors import RepositoryError
from ferry.worker.git.prepare import write_lock
from ferry.worker.git.refs import RefMovedError, move_ref
from ferry.worker.git.repository import Repository


class Store:
    """
    The data repository of one branch, read by anybody and written by one at a time.

    Args:
        repository: The bare repository and its branch.
    """

    def __init__(self, repository: Repository) -> None:
        self._repository = repository
        self._writers = GroupCommit(write_lock(repository.path), head=repository.head, land=self._land)

    def snapshot(self, evaluations: Evaluations | None = None) -> Snapshot:
        """
        Return the repository as it is now.

        Args:
            evaluations: What is known of what runs apart; default: nothing.
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
    ) -> Iterator[Transaction]:
        """
        Open a transaction; its changes become one durable commit when the block ends.

        An exception in the block discards everything, and so does a block that
        changes nothing: then the transaction's ``commit`` stays None.

        Args:
            message: The commit's message, without trailers.
            author: Name and e-mail address.
            trailers: Key and value of each trailer.
            evaluations: What is known of what runs apart; default: it is looked for under the lock.

        Raises:
            NotEvaluatedError: *evaluations* lacks something; see ``rehearsal``.
            BusyError: Another writer kept the lock for half a minute, or a lock of git's is in the way.
            DiskFullError: There is no room; nothing was written.
        """
        with self._writers.turn() as group:
            before = self._at(group.tip, evaluations)
            if before.commit is None:
                raise self._nothing()
            transaction = Transaction(before, before.commit, group.base)
            yield transaction
            with translated():
                commit = transaction.finish(message, author=author, trailers=trailers)
            if commit is not None:
                group.tip = commit
        transaction.commit = commit

    def _at(self, commit: str | None, evaluations: Evaluations | None = None) -> Snapshot:
        return Snapshot.of(self._repository, commit, evaluations)

    @contextlib.contextmanager
    def repeat(self, commit: str) -> Iterator[Transaction]:
        """
        Open a transaction on what *commit* was made on, to find out what it did; nothing is committed.

        Raises:
            RepositoryError: The commit cannot be read.
        """
        (made,) = self._repository.log(commit, limit=1)
        parent = made.parents[0]
        yield Transaction(self._at(parent), parent, parent)

    @contextlib.contextmanager
    def rehearsal(self, evaluations: Evaluations) -> Iterator[Transaction]:
        """
        Open a transaction on the branch as it is, without the write lock; nothing is committed.

        What its records ask for is evaluated apart, and *evaluations* holds it afterwards.
        """
        head = self._repository.head()
        if head is None:
            raise self._nothing()
        with evaluations.looked_for():
            yield Transaction(self._at(head, evaluations), head, head)

    def _nothing(self) -> SheetNotFoundError:
        return SheetNotFoundError(f"The branch {self._repository.branch!r} has no commits, so no sheets.")

    def _land(self, commit: str, parent: str | None) -> None:
        """
        Put *commit* on the branch, so that no crash can take it off again.

        Raises:
            BusyError: Another program has moved the branch, or keeps it locked.
        """
        repository = self._repository
        with translated():
            try:
                move_ref(repository.path, repository.ref, new=commit, old=parent)
            except RefMovedError:
                if repository.contains(commit, repository.head()):
                    return  # a thread of ours moved it, and was ended before it could say so
                raise
            try:
                head = repository.head()
            except RepositoryError:
                return  # the move is on the disk, whatever keeps the branch from being read now
        if not repository.contains(commit, head):  # or others have gone on from it already
            raise BusyError(f"Another program has moved {repository.ref} away from the commit {commit}.")
