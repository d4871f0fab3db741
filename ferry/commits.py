"""
What the functions of an extension receive that run in the worker: commits, landings and divergences.

Extensions import these names from ``ferry``. Nothing here imports the rest of Ferry.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from typing import Protocol

from ferry.writes import Record


class Failed(Exception):
    """
    Raise it in a function under ``after_commit``, ``after_push`` or ``after_divergence``, to say when the
    function is to be called again. After any other error that is after growing pauses.

    Args:
        detail: What failed, in a sentence, for people.
        wait_s: The least seconds until it is called again; not more than ``CFP_PUSH_BACKOFF_CAP`` counts.
        stops: Whether no function of the extension is called again until an operator says so.
    """

    def __init__(self, detail: str, *, wait_s: float | None = None, stops: bool = False) -> None:
        super().__init__(detail)
        self.wait_s, self.stops = wait_s, stops


class Source(Protocol):
    """
    What reads commits: a process of the worker.
    """

    def changes(self, commit: Commit) -> tuple[Change, ...]:
        """
        Return the records that *commit* changes.
        """

    def files(self, commit: Commit) -> tuple[str, ...]:
        """
        Return the files that *commit* changes.
        """

    def record(self, change: Change, blob: str | None) -> Record | None:
        """
        Return the record in the object *blob*.
        """

    def commits(self, landing: Landing) -> Iterator[Commit]:
        """
        Yield the commits of *landing*.
        """

    def count(self, landing: Landing) -> int:
        """
        Return how many commits *landing* has.
        """


@dataclass(frozen=True, slots=True, kw_only=True)
class Change:
    """
    One record that a commit changes, relative to its first parent.

    Attributes:
        sheet: Name of the sheet.
        path: The record's path within the sheet. A record that moves is two changes.
    """

    sheet: str
    path: str
    source: Source = field(repr=False, compare=False)
    blobs: tuple[str | None, str | None] = field(repr=False)
    body_field: str | None = field(default=None, repr=False)

    @property
    def operation(self) -> str:
        """
        ``create``, ``change`` or ``delete``.
        """
        before, after = self.blobs
        return "create" if before is None else "delete" if after is None else "change"

    @property
    def before(self) -> Record | None:
        """
        The record before the commit, read on first use; None if the commit creates it.

        Raises:
            ValueError: The file there is not a valid record.
        """
        return self.source.record(self, self.blobs[0])

    @property
    def after(self) -> Record | None:
        """
        The record after the commit, read on first use; None if the commit deletes it.

        Raises:
            ValueError: The file there is not a valid record.
        """
        return self.source.record(self, self.blobs[1])


@dataclass(frozen=True, slots=True, kw_only=True)
class Commit:
    """
    A commit of the branch. A function under ``after_commit`` receives it.

    Attributes:
        hash: Its full name.
        parents: Full names of its parents; its changes are relative to the first.
        author: The author's name; for a commit that Ferry made, the caller's name.
        email: The author's address.
        authored_at: When it was made, in the form of RFC 3339.
        message: The whole message.
        trailers: The trailers of the message, such as ``Action``.
    """

    hash: str
    parents: tuple[str, ...]
    author: str
    email: str
    authored_at: str
    message: str
    trailers: Mapping[str, str] = field(hash=False)
    source: Source = field(repr=False, compare=False)

    @property
    def changes(self) -> tuple[Change, ...]:
        """
        The records that it changes, by their files' paths; read on first use. For a merge, the changes
        relative to its first parent.
        """
        return self.source.changes(self)

    @property
    def files(self) -> tuple[str, ...]:
        """
        The paths of all files that it changes, also attachments and declarations.
        """
        return self.source.files(self)


@dataclass(frozen=True, slots=True, kw_only=True)
class Landing:
    """
    Commits that have arrived at ``origin``. A function under ``after_push`` receives it.

    Attributes:
        remote: Name of the remote: ``origin``.
        branch: Name of the branch.
        before: The tip of the branch there at the last landing; None if it did not exist.
        after: Its tip now.
    """

    remote: str
    branch: str
    before: str | None
    after: str
    source: Source = field(repr=False, compare=False)
    done: tuple[str, ...] = field(default=(), repr=False)

    @property
    def count(self) -> int:
        """
        The number of commits that have arrived since the last landing.
        """
        return self.source.count(self)

    @property
    def commits(self) -> Iterator[Commit]:
        """
        The commits that have arrived since the last landing, parents first; read one by one.
        """
        return self.source.commits(self)


@dataclass(frozen=True, slots=True, kw_only=True)
class Divergence:
    """
    The branch here and the branch at ``origin`` both have new commits. A function under ``after_divergence``
    receives it.

    Attributes:
        remote: Name of the remote: ``origin``.
        branch: Name of the branch.
        since: The time of the first failed push, in the form of RFC 3339.
        head: The tip of the branch here.
        remote_head: The last seen tip there.
        detail: git's message.
        hint: What an operator should do next.
    """

    remote: str
    branch: str
    since: str
    head: str | None
    remote_head: str | None
    detail: str
    hint: str
