"""
What the ledger knows of one remote, and how that is written as JSON and read.
"""

from __future__ import annotations

import json
import socket
from dataclasses import dataclass, field, fields, is_dataclass, replace
from functools import lru_cache
from types import UnionType
from typing import Any, TypeVar, cast, get_args, get_origin, get_type_hints

from ferry.worker.ledger.histogram import Histogram
from ferry.worker.process.groups import birth, is_running

T = TypeVar("T")


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
        said: All that the remote and git printed, redacted, and cut in the middle where it is long.
    """

    reason: str
    message: str
    hint: str
    at: float
    attempt: int
    said: str = ""


@dataclass(frozen=True, slots=True, kw_only=True)
class Running:
    """
    The ``git push`` that runs now, so that a successor can end one that lost its worker.

    Attributes:
        host: Name of the machine it runs on.
        group: Its process group.
        born: When the group's leader started, in the kernel's clock ticks: a
            process number alone may belong to another process by now.
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
        return birth(self.group) in (self.born, None) and is_running(self.group)


@dataclass(frozen=True, slots=True, kw_only=True)
class Stall:
    """
    A failure that a watchdog could not write into the entry, because a hung process holds the claim.

    Attributes:
        failure: That nothing moves.
        paged: Whether its page was sent.
    """

    failure: Failure
    paged: bool = False


@dataclass(frozen=True, slots=True, kw_only=True)
class Entry:
    """
    The ledger of one remote. Times are seconds since the epoch.

    Attributes:
        attempt: Failed attempts in a row.
        chain: Task id of the one retry that is scheduled.
        retry: Which of that task's retries it is; a copy of an earlier one comes to nothing.
        next_attempt_at: When that retry is due; None when none is scheduled.
        backoff_s: How long it waits in all, in seconds.
        last_attempt_at: When an attempt last began.
        last_push_at: When a push last landed.
        looked_at: When the remote was last asked where its branch stands.
        seen_at: When the remote last said where its branch stands, or took a push.
        rewritten: Where its branch stood before others rewrote its history; None: it still holds that.
        waits_from: When an attempt last began that left the remote with everything, or the remote was found
            to have lost commits: none has waited for it since before then.
        tried: Where the branch stood at the last attempt that failed.
        part: How many commits the next push takes at most, after a push of more
            ran into its timeout; None: all.
        last_failure: The failure that no success has followed yet.
        failing_since: When the first failure since then happened.
        failing_s: How long they have lasted, up to the last of them, by a clock that was never set back.
        needed_since: When a page was first due since then, whether or not one could be sent.
        paged: The reasons for which a page was sent since then.
        rescue: The branch on the remote that keeps our head safe during a divergence.
        rescued: The commit it holds.
        running: The push that runs now, or was running when its worker died.
        gave_up: Whether ``CFP_PUSH_MAX_RETRIES`` was reached.
        paused_at: When an operator stopped the pushes; None where they may be made.
        paused_by: Which operator.
        paused_why: The reason that was given.
        paused_until: When the pause ends by itself; None: when an operator ends it.
        pause_paged: Whether a page was sent because the pause seems forgotten.
        lag_s: From the oldest commit of each push to its arrival.
        push_s: How long the pushes that landed took.
        commits_pushed: How many commits those brought.
        episodes: Failure episodes started, by the reason that started them.
        outcomes: How many attempts ended how, ever: by reason, ``pushed``,
            ``up-to-date`` where the remote had everything already, or
            ``landed_but_reported_failed`` for a push that only the remote knew of.
    """

    attempt: int = 0
    chain: str | None = None
    retry: int = 0
    next_attempt_at: float | None = None
    backoff_s: float | None = None
    last_attempt_at: float | None = None
    last_push_at: float | None = None
    looked_at: float | None = None
    seen_at: float | None = None
    rewritten: str | None = None
    waits_from: float | None = None
    tried: str | None = None
    part: int | None = None
    last_failure: Failure | None = None
    failing_since: float | None = None
    failing_s: float = 0.0
    needed_since: float | None = None
    paged: tuple[str, ...] = ()
    rescue: str | None = None
    rescued: str | None = None
    running: Running | None = None
    gave_up: bool = False
    paused_at: float | None = None
    paused_by: str = ""
    paused_why: str = ""
    paused_until: float | None = None
    pause_paged: bool = False
    lag_s: Histogram = field(default_factory=Histogram)
    push_s: Histogram = field(default_factory=Histogram)
    commits_pushed: int = 0
    episodes: dict[str, int] = field(default_factory=dict)
    outcomes: dict[str, int] = field(default_factory=dict)

    def is_paused(self, now: float) -> bool:
        """
        Whether pushes are stopped: an operator paused them, and the pause has not ended by itself.
        """
        return self.paused_at is not None and (self.paused_until is None or now < self.paused_until)

    def without_past_pause(self, now: float) -> Entry:
        """
        Return the entry as if a pause that has ended by itself had been removed from it.
        """
        if self.paused_at is None or self.is_paused(now):
            return self
        return replace(self, paused_at=None, paused_by="", paused_why="", paused_until=None)

    def is_superseded(self, chain: str, retry: int) -> bool:
        """
        Whether retry number *retry* of the task *chain* comes to nothing: another retry is scheduled.
        """
        return self.chain is not None and (self.chain != chain or retry < self.retry)

    def with_stall(self, stall: Stall) -> Entry:
        """
        Return the entry as if *stall* had been recorded in it.
        """
        reason, begins = stall.failure.reason, self.failing_since is None
        paged = (*self.paged, reason) if stall.paged and reason not in self.paged else self.paged
        return replace(
            self,
            last_failure=stall.failure,
            failing_since=stall.failure.at if begins else self.failing_since,
            needed_since=self.needed_since or stall.failure.at,
            paged=paged,
            episodes=counted(self.episodes, reason) if begins else self.episodes,
            outcomes=counted(self.outcomes, reason),
        )

    def tried_until(self, now: float) -> float:
        """
        Return until when attempts were made: *now*, or when a pause that has not been ended began.
        """
        return now if self.paused_at is None else min(now, self.paused_at)

    def failing_for_s(self, now: float) -> float:
        """
        Return how long failures have followed each other, in seconds, though the clock be set back.

        A pause does not count while it lasts: nothing is tried in it.
        """
        if self.failing_since is None:
            return 0.0
        last = self.last_failure.at if self.last_failure else self.failing_since
        return self.failing_s + max(0.0, self.tried_until(now) - last)

    def waiting_since(self, made_at: float, known_since: float | None) -> float:
        """
        Return since when the oldest commit that the remote lacks, made at *made_at*, has waited for it.

        Args:
            known_since: Since when the remote is at its address: a new mirror lacks old commits, too.
        """
        return max(made_at, self.waits_from or 0.0, known_since or 0.0)

    def waits(self, now: float, *, grace_s: float = 0.0) -> bool:
        """
        Whether a retry is scheduled for later than *now*, or *grace_s* seconds before it.

        Not so where the clock was set back to before it was scheduled: that
        retry might be days away.
        """
        if self.next_attempt_at is None or self.last_attempt_at is None:
            return False
        return self.last_attempt_at <= now < self.next_attempt_at + grace_s


def counted(counts: dict[str, int], name: str) -> dict[str, int]:
    """
    Return *counts* with one more of *name*.
    """
    return {**counts, name: counts.get(name, 0) + 1}


def as_json(thing: Any) -> bytes:
    """
    Write an entry, or another class of this kind, as JSON.
    """
    return json.dumps(_fields(thing), default=_fields).encode()


def from_json(kind: type[T], content: bytes) -> T | None:
    """
    Read what ``as_json`` wrote; None where it is damaged, or of another version that meant something else.
    """
    try:
        value = _read(kind, json.loads(content))
    except (TypeError, ValueError, RecursionError):
        return None
    return value if isinstance(value, kind) else None


_YEAR_1, _YEAR_10000 = -62_135_596_800, 253_402_300_800  # in seconds since the epoch
_hints = lru_cache(maxsize=None)(get_type_hints)


def _fields(thing: Any) -> dict[str, Any]:
    return {each.name: getattr(thing, each.name) for each in fields(thing)}


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
    if kind is float and not _YEAR_1 <= value < _YEAR_10000:  # not a number, or infinite, neither
        raise TypeError(f"{value!r} is neither a moment nor a time span")
    return value
