"""
What the functions of extensions receive, read from git when they ask for it.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from functools import lru_cache

import ferry.commits
from ferry.commits import Change, Landing
from ferry.worker.git.history import Commit
from ferry.worker.git.repository import Repository
from ferry.worker.git.trees import Blobs, blobs_changed
from ferry.worker.hosting.sheets import Sheets, record_in
from ferry.writes import Record

_AT_ONCE = 50  # commits that one git reads


class CommitReader:
    """
    Reads the commits of one repository.
    """

    def __init__(self, repository: Repository) -> None:
        self._repository = repository
        self._changed = lru_cache(maxsize=4)(self._read_changed)
        self._changes = lru_cache(maxsize=4)(self._read_changes)

    def read(self, names: Sequence[str]) -> Iterator[ferry.commits.Commit]:
        """
        Yield the commits with the full object names *names*.

        Raises:
            RepositoryError: git could not read one.
        """
        for start in range(0, len(names), _AT_ONCE):
            for commit in self._repository.commits_named(names[start : start + _AT_ONCE]):
                yield self._public(commit)

    def commits(self, landing: Landing) -> Iterator[ferry.commits.Commit]:
        """
        Yield the commits of *landing*, parents first.
        """
        done = landing.done
        while waiting := self._repository.outstanding(landing.after, done, limit=20 * _AT_ONCE):
            yield from self.read([name for name, _ in waiting])
            for name, parents in waiting:
                done = advanced(done, name, parents)

    def count(self, landing: Landing) -> int:
        """
        Return how many commits *landing* has.
        """
        return self._repository.count_outstanding(landing.after, landing.done)

    def changes(self, commit: ferry.commits.Commit) -> tuple[Change, ...]:
        """
        Return the records that *commit* changes, by the paths of their files.
        """
        return self._changes(commit)

    def files(self, commit: ferry.commits.Commit) -> tuple[str, ...]:
        """
        Return the paths of the files that *commit* changes.
        """
        return tuple(path for path, _ in self._changed(commit.hash))

    def record(self, change: Change, blob: str | None) -> Record | None:
        """
        Return the record in the object *blob*.

        Raises:
            ValueError: It holds no valid record.
        """
        if blob is None:
            return None
        try:
            return record_in(self._repository.objects, blob, change.path, change.body_field)
        except ValueError as exc:
            raise ValueError(f"{change.sheet}/{change.path} is no valid record: {exc}") from exc

    def _public(self, commit: Commit) -> ferry.commits.Commit:
        author, email = commit.author
        return ferry.commits.Commit(
            hash=commit.hash,
            parents=commit.parents,
            author=author,
            email=email,
            authored_at=commit.authored_at,
            message=commit.message,
            trailers=commit.trailers,
            source=self,
        )

    def _read_changed(self, commit: str) -> Blobs:
        return blobs_changed(self._repository, "--root", "-m", "--first-parent", commit)

    def _read_changes(self, commit: ferry.commits.Commit) -> tuple[Change, ...]:
        after = Sheets(self._repository, commit.hash)
        before = Sheets(self._repository, commit.parents[0]) if commit.parents else after
        return tuple(
            Change(
                sheet=owned.sheet.name,
                path=owned.path,
                source=self,
                blobs=blobs,
                body_field=owned.sheet.body_field,
            )
            for file, blobs in self._changed(commit.hash)
            if blobs != (None, None) and (owned := after.owner(file) or before.owner(file))
        )


def advanced(done: Sequence[str], commit: str, parents: Sequence[str]) -> tuple[str, ...]:
    """
    Return the tips of what is done, once *commit* is, too: what a commit stands on is done with it.
    """
    return (commit, *(each for each in done if each not in parents))
