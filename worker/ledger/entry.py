"""
The ledger's entry of one remote, and its form as JSON.
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
        said: The output of the remote and git, redacted; a long text lacks its middle.
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
    The running ``git push``, so that a later worker can end it if this worker is killed.

    Attributes:
        host: Name of the machine it runs on.
        group: Its process group.
        born: When the group's leader started, in the kernel's clock ticks: the kernel may have given the
            process number to another process.
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
        Whether a process of that group still runs on this machine.

        The kernel gives no new process the number of a group that has members,
        so a group without its leader is still the same.
        """
        if not self.born or self.host != socket.gethostname():
            return False
        return birth(self.group) in (self.born, None) and is_running(self.group)


@dataclass(frozen=True, slots=True, kw_only=True)
class Stall:
    """
    A failure that a watchdog cannot write into the entry, because a hung process holds the claim.

    Attributes:
        failure: The failure ``stalled``, when it was last noticed.
        since: When its episode began, in seconds since the epoch; None: at that failure.
        paged: Whether its page was sent.
    """

    failure: Failure
    since: float | None = None
    paged: bool = False


@dataclass(frozen=True, slots=True, kw_only=True)
class Refusal:
    """
    Why a rule of an extension keeps a merge from being made.

    Attributes:
        extension: The extension's name.
        record: The record that the rule was asked about: its sheet and its path, with a slash.
        message: What the rule said, or how it failed.
        has_failed: Whether it failed, rather than to refuse.
    """

    extension: str
    record: str
    message: str
    has_failed: bool = False

    def __str__(self) -> str:
        verb = "fails at" if self.has_failed else "refuses"
        return f"the extension {self.extension!r} {verb} {self.record}: {self.message}"

    @property
    def hint(self) -> str:
        """
        What an operator does next.
        """
        if self.has_failed:
            return "Correct the extension and restart Ferry, then reconcile: ferry reconcile"
        return "Write the record through the API so that the rule holds, then reconcile: ferry reconcile"


@dataclass(frozen=True, slots=True, kw_only=True)
class RefusedMerge:
    """
    The last merge with a remote that was refused.

    Attributes:
        ours: Our tip.
        theirs: The remote's.
        at: When it was refused, in seconds since the epoch.
        refusal: Why.
    """

    ours: str
    theirs: str
    at: float
    refusal: Refusal


@dataclass(frozen=True, slots=True, kw_only=True)
class Entry:
    """
    The ledger of one remote. Times are seconds since the epoch.

    Attributes:
        attempt: Failed attempts in a row.
        chain: Task id of the one retry that is scheduled.
        retry: The number of that retry; a redelivered earlier one ends without a push.
        next_attempt_at: When that retry is due; None when none is scheduled.
        backoff_s: The whole wait of that retry, in seconds.
        last_attempt_at: When an attempt last began.
        last_push_at: When a push last landed.
        looked_at: When Ferry last asked the remote for its branch's tip.
        seen_at: When the remote last reported its branch's tip, or accepted a push.
        rewritten: The tip of its branch before others rewrote the history; None: the history was not
            rewritten.
        refused: The last merge that the rules of an extension refused, since the last success.
        waits_from: When the last attempt began that left nothing pending, or when the remote was found to
            have lost commits: no pending commit has waited since before then.
        tried: The branch's tip at the last failed attempt.
        part: The most commits of the next push, after a larger push exceeded its timeout; None: all.
        last_failure: The last failure since the last success.
        failing_since: When the first failure since the last success happened.
        failing_s: Seconds from the first to the last of these failures, by a clock that cannot be set.
        needed_since: When a page was first due in this episode, whether or not it could be sent.
        paged: The reasons for which a page was sent in this episode.
        rescue: The rescue branch on the remote, during a divergence.
        rescued: The commit that the rescue branch is at.
        running: The running push, or the push that ran when its worker died.
        gave_up: Whether ``CFP_PUSH_MAX_RETRIES`` was reached.
        paused_at: When an operator paused the pushes; None: they are not paused.
        paused_by: The operator who paused them.
        paused_why: The operator's reason.
        paused_until: When the pause ends by itself; None: it lasts until an operator ends it.
        pause_paged: Whether a page was sent because the pause has lasted for a day.
        lag_s: Histogram of the time from the oldest commit of each push to its arrival.
        push_s: Histogram of the duration of the pushes that landed.
        commits_pushed: How many commits those pushes sent.
        episodes: Failure episodes started, by the reason that started them.
        outcomes: Attempts, by outcome: the reason of a failure; ``pushed``; ``up-to-date`` if the remote had
            everything already; or ``landed_but_reported_failed`` for a push that git reported as failed.
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
    refused: RefusedMerge | None = None
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
        Whether retry number *retry* of the task *chain* must not push, because another retry is scheduled.
        """
        return self.chain is not None and (self.chain != chain or retry < self.retry)

    def with_stall(self, stall: Stall) -> Entry:
        """
        Return the entry as if *stall* had been recorded in it.
        """
        reason, begins = stall.failure.reason, self.failing_since is None
        since = stall.failure.at if stall.since is None else stall.since
        paged = (*self.paged, reason) if stall.paged and reason not in self.paged else self.paged
        return replace(
            self,
            last_failure=stall.failure,
            failing_since=since if begins else self.failing_since,
            needed_since=self.needed_since or since,
            paged=paged,
            episodes=counted(self.episodes, reason) if begins else self.episodes,
            outcomes=counted(self.outcomes, reason),
        )

    def tried_until(self, now: float) -> float:
        """
        Return *now*, or when the current pause began: attempts were made until then.
        """
        return now if self.paused_at is None else min(now, self.paused_at)

    def failing_for_s(self, now: float) -> float:
        """
        Return the seconds since the first failure, even if the wall clock was set back.

        The time of the current pause does not count, because no attempt is made in it.
        """
        if self.failing_since is None:
            return 0.0
        last = self.last_failure.at if self.last_failure else self.failing_since
        return self.failing_s + max(0.0, self.tried_until(now) - last)

    def waiting_since(self, made_at: float, known_since: float | None) -> float:
        """
        Return since when the oldest pending commit, made at *made_at*, has waited for the remote.

        Args:
            known_since: When the remote's URL was set: a new mirror lacks old commits, too.
        """
        return max(made_at, self.waits_from or 0.0, known_since or 0.0)

    def waits(self, now: float, *, grace_s: float = 0.0) -> bool:
        """
        Whether the scheduled retry is not yet due at *now*, nor overdue by more than *grace_s* seconds.

        False if the clock was set back to before the retry was scheduled: the retry might be days away.
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
    Return an entry, or another dataclass of this module, as JSON.
    """
    return json.dumps(_fields(thing), default=_fields).encode()


def from_json(kind: type[T], content: bytes) -> T | None:
    """
    Parse the result of ``as_json``; None if it is damaged, or an incompatible version of Ferry wrote it.

    The last results are kept: a push reads the same entry several times, and an entry never changes.
    """
    return cast("T | None", _parsed(cast(Any, kind), content))


@lru_cache(maxsize=32)
def _parsed(kind: type[Any], content: bytes) -> Any:
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
    Convert *value*, parsed from JSON, to *kind*: a class of this module, or the type of a field.

    Raises:
        TypeError: The value does not have that type.
    """
    if is_dataclass(kind) and isinstance(value, dict):
        known = _hints(cast(type, kind))
        stored = {name: _read(known[name], item) for name, item in value.items() if name in known}
        return cast(type, kind)(**stored)
    origin, arguments = get_origin(kind), get_args(kind)
    if origin is UnionType:
        return None if value is None else _read(arguments[0], value)
    if origin is tuple and isinstance(value, list):
        if set(map(type, value)) == {arguments[0]}:  # the valid buckets of a histogram
            return tuple(value)
        return tuple(_read(arguments[0], item) for item in value)
    if origin is dict and isinstance(value, dict):
        return {_read(arguments[0], name): _read(arguments[1], item) for name, item in value.items()}
    if isinstance(value, bool) is not (kind is bool) or not isinstance(
        value, (int, float) if kind is float else kind
    ):
        raise TypeError(f"{value!r} is not a {kind}")
    if kind is float and not _YEAR_1 <= value < _YEAR_10000:  # nan and infinity are invalid too
        raise TypeError(f"{value!r} is neither a moment nor a time span")
    return value
