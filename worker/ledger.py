"""
What happened to each remote: one small file per remote, in the repository.

git alone says what is pending. The ledger remembers what git cannot know: the
attempts made, the retry that is due, the last error, the episode that somebody
was paged for. It is written by whoever holds the remote's lock and by nobody
else, replaced whole, and readable at any time by every process on the volume.

It lives beside the commits and not in Redis, so that an emptied Redis neither
pages twice nor forgets a backoff; see ``docs/decisions/0002-ledger-in-the-repository.md``.
"""

from __future__ import annotations

import socket
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field, fields, is_dataclass, replace
from functools import lru_cache
from pathlib import Path
from types import UnionType
from typing import Any, cast, get_args, get_origin, get_type_hints

from worker.atomic_json import read_json, write_json
from worker.errors import RemoteBusyError
from worker.histogram import Histogram
from worker.history import Landing, recall, remember
from worker.locks import FileLock
from worker.logs import log
from worker.process import birth, signal_group

_POLL_S = 0.05


@dataclass(frozen=True, slots=True, kw_only=True)
class Failure:
    """
    Why the last attempt ended without the commit on the remote.

    Attributes:
        reason: One of ``failures.POLICIES``.
        message: What git said, redacted.
        hint: What an operator does next.
        at: When, in seconds since the epoch.
        attempt: Which attempt in a row it was, from 1.
    """

    reason: str
    message: str
    hint: str
    at: float
    attempt: int


@dataclass(frozen=True, slots=True, kw_only=True)
class Running:
    """
    The ``git push`` that runs now, so that a successor can end one that lost its worker.

    Attributes:
        host: Name of the machine it runs on.
        group: Its process group.
        born: When the group's leader started, in the kernel's clock ticks: a
            process number alone may have been given to somebody else since.
    """

    host: str
    group: int
    born: str

    @classmethod
    def here(cls, group: int) -> Running:
        """
        Describe a process group that this process has just started.
        """
        return cls(host=socket.gethostname(), group=group, born=birth(group) or "")

    def is_alive_here(self) -> bool:
        """
        Whether anything of that very process group still runs, on this machine.

        The kernel gives no new process the number of a group that has members,
        so a group without its leader is still the same.
        """
        if not self.born or self.host != socket.gethostname():
            return False
        leader = birth(self.group)
        return leader == self.born or (leader is None and signal_group(self.group, 0))


@dataclass(frozen=True, slots=True, kw_only=True)
class Entry:
    """
    The ledger of one remote. Times are seconds since the epoch.

    Attributes:
        attempt: Failed attempts in a row.
        chain: Task id of the one retry that is scheduled.
        next_attempt_at: When that retry is due; None when none is scheduled.
        backoff_s: How long it waits in all, in seconds.
        last_attempt_at: When an attempt last began.
        last_push_at: When a push last landed.
        looked_at: When the remote was last asked where its branch stands.
        last_failure: The failure that no success has followed yet.
        failing_since: When the first failure since then happened.
        paged: The reasons that somebody was paged for since then.
        rescue: The branch on the remote that keeps our head safe during a divergence.
        rescued: The commit it holds.
        running: The push that runs now, or was running when its worker died.
        gave_up: Whether ``CFP_PUSH_MAX_RETRIES`` was reached.
        paused_at: When an operator stopped the pushes; None where they may be made.
        lag_s: From the oldest commit of each push to its arrival.
        push_s: How long the pushes that landed took.
        commits_pushed: How many commits those brought.
        episodes: How many rows of failures began, by their first reason.
        outcomes: How many attempts ended how, ever: by reason, ``pushed``,
            ``up-to-date`` where the remote had everything already, or
            ``landed_but_reported_failed`` for a push that only the remote knew of.
    """

    attempt: int = 0
    chain: str | None = None
    next_attempt_at: float | None = None
    backoff_s: float | None = None
    last_attempt_at: float | None = None
    last_push_at: float | None = None
    looked_at: float | None = None
    last_failure: Failure | None = None
    failing_since: float | None = None
    paged: tuple[str, ...] = ()
    rescue: str | None = None
    rescued: str | None = None
    running: Running | None = None
    gave_up: bool = False
    paused_at: float | None = None
    lag_s: Histogram = field(default_factory=Histogram)
    push_s: Histogram = field(default_factory=Histogram)
    commits_pushed: int = 0
    episodes: dict[str, int] = field(default_factory=dict)
    outcomes: dict[str, int] = field(default_factory=dict)

    def waits(self, now: float, *, grace_s: float = 0.0) -> bool:
        """
        Whether a retry is scheduled for later than *now*, or *grace_s* seconds before it.

        Not so where the clock was set back to before it was scheduled: that
        retry might be days away.
        """
        if self.next_attempt_at is None or self.last_attempt_at is None:
            return False
        return self.last_attempt_at <= now < self.next_attempt_at + grace_s


@dataclass(slots=True)
class Claim:
    """
    The right to push to one remote, held for a block; the only way to write its ledger.
    """

    ledger: Ledger
    remote: str
    entry: Entry = field(init=False)

    def __post_init__(self) -> None:
        self.entry = self.ledger.read(self.remote)

    def count(self, outcome: str) -> dict[str, int]:
        """
        Return the outcomes with one more of *outcome*, to be written with what else it changes.
        """
        outcomes = self.entry.outcomes
        return {**outcomes, outcome: outcomes.get(outcome, 0) + 1}

    def episode(self, reason: str) -> dict[str, int]:
        """
        Return the episodes with one more that begins with *reason*.
        """
        episodes = self.entry.episodes
        return {**episodes, reason: episodes.get(reason, 0) + 1}

    def note(self, **changes: Any) -> None:
        """
        Change fields of the entry, on disk with the next ``write``; each of those costs the push a moment.
        """
        self.entry = replace(self.entry, **changes)

    def write(self, **changes: Any) -> Entry:
        """
        Change fields of the entry, on disk at once; returns the new entry.

        A full disk must not keep commits from leaving it: what cannot be
        written is logged, and known to this process alone.
        """
        self.entry = replace(self.entry, **changes)
        try:
            self.ledger._write(self.remote, self.entry)
        except OSError as exc:
            log().warning("ledger.write_failed", remote=self.remote, error=str(exc))
        return self.entry

    def landed(self, landing: Landing) -> None:
        """
        Add a push that landed to the remote's history, if that can be written.
        """
        remember(self.ledger._history(self.remote), landing)


class Ledger:
    """
    The entries of all remotes of one repository.

    Args:
        directory: Where they live; it exists.
    """

    def __init__(self, directory: Path) -> None:
        self._directory = directory

    def read(self, remote: str) -> Entry:
        """
        Return what is known of *remote*; an empty entry where nothing is.
        """
        try:
            return _entry(read_json(self._directory / f"{remote}.json"))
        except (TypeError, ValueError):
            # Written by another version: what it knew is lost, and no commit with it.
            return Entry()

    def history(self, remote: str) -> list[Landing]:
        """
        Return the last pushes that landed on *remote*, oldest first.
        """
        return recall(self._history(remote))

    @contextmanager
    def claim(self, remote: str) -> Iterator[Claim | None]:
        """
        Claim *remote* for the block, or yield None at once if another push holds it.
        """
        with self._lock(remote).try_hold() as held:
            yield Claim(self, remote) if held else None

    @contextmanager
    def claim_within(self, remote: str, timeout_s: float) -> Iterator[Claim]:
        """
        Claim *remote* for the block, once the push that runs has ended.

        Raises:
            RemoteBusyError: It has not ended within *timeout_s* seconds.
        """
        deadline = time.monotonic() + timeout_s
        while True:
            with self.claim(remote) as claim:
                if claim is not None:
                    yield claim
                    return
            if time.monotonic() > deadline:
                raise RemoteBusyError(
                    f"a push to {remote} has not ended in {timeout_s:g} s; repeat this later"
                )
            time.sleep(_POLL_S)

    def forget_page(self, remote: str, reason: str) -> None:
        """
        Let the next failure page, because Sentry did not take this one's page.
        """
        log().warning("page.lost", remote=remote, reason=reason)
        with self.claim(remote) as claim:
            if claim is not None:
                claim.write(paged=tuple(each for each in claim.entry.paged if each != reason))

    def set_paused(self, remote: str, paused_at: float | None, *, timeout_s: float) -> None:
        """
        Stop the pushes to *remote*, or with None let them be made again; waits for one that runs.

        Raises:
            RemoteBusyError: It has not ended within *timeout_s* seconds.
        """
        with self.claim_within(remote, timeout_s) as claim:
            claim.write(paused_at=paused_at)

    def is_claimed(self, remote: str) -> bool:
        """
        Whether somebody pushes to *remote* at this moment.
        """
        return self._lock(remote).is_held()

    def _lock(self, remote: str) -> FileLock:
        return FileLock(self._directory / f"{remote}.lock")

    def _history(self, remote: str) -> Path:
        # No ending of the ledger's own files: a remote may be called "origin.history".
        return self._directory / f"{remote}.history"

    def _write(self, remote: str, entry: Entry) -> None:
        write_json(self._directory / f"{remote}.json", _fields(entry), default=_fields)


_hints = lru_cache(maxsize=None)(get_type_hints)


def _fields(thing: Any) -> dict[str, Any]:
    return {each.name: getattr(thing, each.name) for each in fields(thing)}


def _entry(stored: dict[str, Any]) -> Entry:
    return cast(Entry, _read(Entry, stored))


def _read(kind: Any, value: Any) -> Any:
    """
    Return *value*, which came from JSON, as *kind*: a class of this module, or the type of a field of one.

    Raises:
        TypeError: It is something else.
    """
    if is_dataclass(kind) and isinstance(value, dict):
        known = _hints(cast(type, kind))
        stored = {name: _read(known[name], item) for name, item in value.items() if name in known}
        return cast(type, kind)(**stored)
    origin, arguments = get_origin(kind), get_args(kind)
    if origin is UnionType:
        return None if value is None else _read(arguments[0], value)
    if origin is tuple and isinstance(value, list):
        if set(map(type, value)) == {arguments[0]}:  # the buckets of a histogram, all as they should be
            return tuple(value)
        return tuple(_read(arguments[0], item) for item in value)
    if origin is dict and isinstance(value, dict):
        return {_read(arguments[0], name): _read(arguments[1], item) for name, item in value.items()}
    if isinstance(value, bool) is not (kind is bool) or not isinstance(
        value, (int, float) if kind is float else kind
    ):
        raise TypeError(f"{value!r} is no {kind}")
    return value
