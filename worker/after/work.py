"""
What waits for a hook: read from git and the ledger, never remembered.

For commits that is what the branch holds and the position does not, in an order in which each commit comes
after its parents. It holds for merges and for a history that was rewritten, too: what the new
history has in common with the old one is done.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import Any

import gitsheets

from ferry.commits import Divergence, Landing
from ferry.extension import Event
from ferry.worker.after.commits import CommitReader, advanced
from ferry.worker.after.positions import Position
from ferry.worker.errors import RepositoryError
from ferry.worker.files.moments import timestamp
from ferry.worker.git.refs import OBJECT_NAME
from ferry.worker.git.repository import Repository
from ferry.worker.ledger.ledger import Ledger
from ferry.worker.settings import ORIGIN

_AT_ONCE = 1000
_DIVERGED = "non-fast-forward"
# The name of what has happened, what the functions receive, and the position once they have returned.
Item = tuple[str, Any, Position]


class Work:
    """
    What has happened in one repository.

    Args:
        repository: The data repository.
        ledger: What is known of origin.
    """

    def __init__(self, repository: Repository, ledger: Ledger) -> None:
        self._repository = repository
        self._ledger = ledger
        self.reader = CommitReader(repository)
        self._items: dict[Event, Callable[[Position], Iterator[Item]]] = {
            "commit": self._commits,
            "push": self._landings,
            "divergence": self._divergences,
        }

    def now(self, event: Event) -> Position:
        """
        Return the position at which nothing waits: where a first start begins.

        A divergence that lasts is told, and so is the first push to an origin that has nothing.
        """
        tip = self._tip(event)
        return (tip,) if tip else ()

    def waits(self, event: Event, done: Position) -> bool:
        """
        Whether anything waits behind the position *done*. Mostly starts no git.

        Raises:
            RepositoryError: git could not tell.
        """
        if event == "divergence":
            return self._divergence() not in (None, *done)
        tip = self._tip(event)
        return tip is not None and not any(self._repository.contains(tip, each) for each in done)

    def count(self, event: Event, done: Position) -> int:
        """
        Count what waits: commits, also for a push; or divergences.

        Raises:
            RepositoryError: git could not tell.
        """
        if not self.waits(event, done):
            return 0
        tip = self._tip(event)
        return 1 if tip is None else self._repository.count_outstanding(tip, done)

    def items(self, event: Event, done: Position) -> Iterator[Item]:
        """
        Yield what waits, the oldest first, until nothing does: also what happens meanwhile.

        Raises:
            RepositoryError: git could not tell.
        """
        return self._items[event](done)

    def past(self, event: Event, what: str) -> Item:
        """
        Return what has happened before, to tell it again.

        Args:
            what: The full name of a commit; for a push ``BEFORE..AFTER``, for the first push
                ``..AFTER``; "" for the divergence that lasts.

        Raises:
            RepositoryError: It has not happened, or not yet.
        """
        if event == "divergence":
            lasting = next(self._divergences(()), None)
            if lasting is None or what:
                raise RepositoryError(
                    "a divergence is told again while it lasts, and needs no name; "
                    f"{'one does' if lasting else 'none does'}"
                )
            return lasting
        before, _, after = what.rpartition("..")
        for name in filter(None, (before, after)):
            if not self._is_known(name):
                raise RepositoryError(f"{name!r} is not the full name of a commit in the data repository")
        if event == "commit":
            if before:
                raise RepositoryError(f"{what!r} is not one commit; a push is told again with --event push")
            return after, next(self.reader.read([after])), ()
        if ".." not in what:
            raise RepositoryError("name the push by both tips, as its message has them: BEFORE..AFTER")
        return after, self._landing((before,) if before else (), after), ()

    def _is_known(self, name: str) -> bool:
        try:
            return bool(OBJECT_NAME.fullmatch(name)) and self._repository.objects.is_commit(name)
        except gitsheets.GitsheetsError:
            return False

    def _tip(self, event: Event) -> str | None:
        if event == "commit":
            return self._repository.head()
        return self._repository.remote_head(ORIGIN) if event == "push" else None

    def _commits(self, done: Position) -> Iterator[Item]:
        while (tip := self._repository.head()) and (
            waiting := self._repository.outstanding(tip, done, limit=_AT_ONCE)
        ):
            commits = self.reader.read([name for name, _ in waiting])
            for (name, parents), commit in zip(waiting, commits, strict=True):
                # At the tip, everything is done.
                done = (name,) if name == tip else advanced(done, name, parents)
                yield name, commit, done

    def _landings(self, done: Position) -> Iterator[Item]:
        while (tip := self._repository.remote_head(ORIGIN)) and self.waits("push", done):
            landing = self._landing(done, tip)
            done = (tip,)
            yield tip, landing, done

    def _landing(self, done: Position, tip: str) -> Landing:
        return Landing(
            remote=ORIGIN,
            branch=self._repository.branch,
            before=done[0] if done else None,
            after=tip,
            source=self.reader,
            done=done,
        )

    def _divergences(self, done: Position) -> Iterator[Item]:
        entry, name = self._ledger.read(ORIGIN), self._divergence()
        failure = entry.last_failure
        if name is None or failure is None or name in done:
            return
        divergence = Divergence(
            remote=ORIGIN,
            branch=self._repository.branch,
            since=timestamp(float(name)) or "",
            head=self._repository.head(),
            remote_head=self._repository.remote_head(ORIGIN),
            detail=failure.message,
            hint=failure.hint,
        )
        yield name, divergence, (name,)

    def _divergence(self) -> str | None:
        """
        Return the name of the divergence that lasts: when its episode began; None if there is none.
        """
        entry = self._ledger.read(ORIGIN)
        is_one = entry.last_failure is not None and entry.last_failure.reason == _DIVERGED
        return repr(entry.failing_since) if is_one and entry.failing_since is not None else None
