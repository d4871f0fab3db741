"""
States, times and sizes in words.
"""

from __future__ import annotations

import re
import time
from collections.abc import Mapping
from dataclasses import dataclass, replace
from types import MappingProxyType

from ferry.app.replica.level import State as Level
from ferry.worker.observe.printable import many as many  # for the templates
from ferry.worker.repair.kept import HERE
from ferry.worker.repair.reconcile import Outcome
from ferry.worker.repair.reconcile import State as Joined
from ferry.worker.status import RemoteStatus


@dataclass(frozen=True, slots=True)
class Words:
    """
    How a state is shown.

    Attributes:
        tone: Its colour: ``good``, ``busy``, ``warn``, ``bad`` or ``off``.
        mark: A sign for it, for those who do not see the colour.
    """

    tone: str
    mark: str


STATES: Mapping[str, Words] = MappingProxyType({
    "disabled": Words("off", "–"),
    "paused": Words("warn", "‖"),
    "idle": Words("good", "✓"),
    "queued": Words("busy", "…"),
    "pushing": Words("busy", "↑"),
    "retrying": Words("warn", "↻"),
    "blocked": Words("bad", "!"),
})  # fmt: skip

# How far a replica is.
LEVELS: Mapping[Level, Words] = MappingProxyType({
    "level": Words("good", "✓"),
    "behind": Words("busy", "…"),
    "late": Words("warn", "!"),
    "apart": Words("bad", "!"),
    "paused": Words("warn", "‖"),
})  # fmt: skip

_NEEDS_PERSON = "bad", "!"

# What a reconcile would do, and what it did.
_JOINED: Mapping[Joined, tuple[str, str]] = MappingProxyType({
    "in-sync": ("Both sides hold the same commits.",) * 2,
    "ahead": ("The remote has no commits that the branch lacks; there is nothing to join.",) * 2,
    "fast-forwarded": (
        "The branch would be fast-forwarded to the remote's.",
        "The branch was fast-forwarded to the remote's.",
    ),
    "merged": ("One merge commit would join both sides.", "One merge commit joined both sides."),
    "rebased": (
        "Our commits would be repeated on top of the remote's.",
        "Our commits were repeated on top of the remote's.",
    ),
    "conflict": ("Nothing would be changed.", "Nothing was changed."),
    "refused": (
        "A rule of an extension refuses the merge. Nothing would be changed.",
        "A rule of an extension refuses the merge. Nothing was changed.",
    ),
    "fetch-failed": ("The remote could not be fetched. Nothing was changed.",) * 2,
})  # fmt: skip
_SET_ASIDE = ("The branch would be set to the remote's.", "The branch was set to the remote's.")
_KEPT = ("would be kept", "are kept")


def place(remote: str) -> str:
    """
    Return where a branch is: on a remote or in the data repository.
    """
    return "here" if remote == HERE else f"on {remote}"


def joined(outcome: Outcome, *, is_done: bool) -> str:
    """
    Return a sentence with the result of a reconcile, or of a dry run.
    """
    sentence = _JOINED[outcome.state][is_done]
    if outcome.state == "conflict":
        why = "Both sides share no history." if outcome.is_unrelated else "Both sides changed the same thing."
        sentence = f"{why} {_SET_ASIDE[is_done] if outcome.kept_as else sentence}"
    if outcome.kept_as is None:
        return sentence
    return (
        f"{sentence} Our commits as they were {_KEPT[is_done]} as {outcome.kept_as}, here and on the remote."
    )


def of(status: RemoteStatus) -> Words:
    """
    Return how the state of a remote is shown. That a person is needed, or that pushes fail, takes precedence.
    """
    words = STATES[status.state]
    if status.need:
        return Words(*_NEEDS_PERSON)
    return replace(words, tone="warn") if status.failing_since is not None else words


_LONGEST_S = 366 * 86400.0
_UNITS = ((86400, "d"), (3600, "h"), (60, "min"), (1, "s"))


def duration(seconds: float) -> str:
    """
    Write a duration with its two largest units, such as ``2 h 5 min``; below 10 s with a decimal.
    """
    if seconds < 10:
        return f"{max(0.0, seconds):.1f} s"
    whole = int(seconds)
    said: list[tuple[int, str]] = []
    for size, unit in _UNITS:
        if whole >= size or said:
            said.append((whole // size, unit))
            whole %= size
    return " ".join(f"{count} {unit}" for count, unit in said[:2] if count)


def seconds(text: str) -> float:
    """
    Read a duration such as ``90s``, ``30m``, ``2h`` or ``1d``, of a year at most.

    Raises:
        ValueError: It is not a duration, or longer than a year.
    """
    units = {"s": 1, "m": 60, "h": 3600, "d": 86400}
    found = re.fullmatch(r"([1-9]\d{0,7})([smhd])", text.strip())
    if found is None:
        raise ValueError(f"{text!r} is not a time such as 90s, 30m, 2h or 1d")
    lasts_s = float(int(found[1]) * units[found[2]])
    if lasts_s > _LONGEST_S:
        raise ValueError(f"{text!r} is longer than a year")
    return lasts_s


def clock(seconds: float) -> str:
    """
    Write a moment as ``2026-11-23 12:27:20``, in UTC.
    """
    return time.strftime("%Y-%m-%d %H:%M:%S", time.gmtime(seconds))


def size(count: float) -> str:
    """
    Write a number of bytes, such as ``1.4 MiB``.
    """
    for unit in ("bytes", "KiB", "MiB", "GiB"):
        if count < 1024:
            return f"{count:.0f} {unit}" if unit == "bytes" or count >= 100 else f"{count:.1f} {unit}"
        count /= 1024
    return f"{count:.1f} TiB"
