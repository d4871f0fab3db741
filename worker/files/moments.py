"""
Moments that one process records and another compares with its own clock.

Two moments of the same boot are compared by the kernel's clock since that boot, which cannot be set and runs
while the machine sleeps. Moments of another boot or machine are compared by the wall clock.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping
from dataclasses import asdict, dataclass
from datetime import UTC, datetime
from functools import lru_cache
from pathlib import Path
from typing import Any


@dataclass(frozen=True, slots=True, kw_only=True)
class Moment:
    """
    A moment on two clocks.

    Attributes:
        at: Seconds since the epoch.
        boot: Identifies the boot of the machine.
        uptime_s: Seconds since that boot.
    """

    at: float
    boot: str = ""
    uptime_s: float = 0.0

    @classmethod
    def now(cls, clock: Callable[[], float]) -> Moment:
        """
        Return the current moment; *clock* returns seconds since the epoch.
        """
        return cls(at=clock(), boot=_boot(), uptime_s=_uptime_s())

    @classmethod
    def from_json(cls, value: Mapping[str, Any]) -> Moment | None:
        """
        Parse the result of ``as_json``; None if it is something else.
        """
        at, boot, uptime_s = value.get("at"), value.get("boot", ""), value.get("uptime_s", 0.0)
        if not isinstance(at, (int, float)) or not isinstance(uptime_s, (int, float)):
            return None
        return cls(at=at, boot=str(boot), uptime_s=uptime_s)

    def as_json(self) -> dict[str, Any]:
        """
        Return the moment as plain data.
        """
        return asdict(self)

    def age_s(self, clock: Callable[[], float]) -> float:
        """
        Return how long ago it was, in seconds.
        """
        if self.boot and self.boot == _boot():
            return _uptime_s() - self.uptime_s
        return clock() - self.at


def _uptime_s() -> float:
    return time.clock_gettime(time.CLOCK_BOOTTIME)


@lru_cache(maxsize=1)
def _boot() -> str:
    try:
        return Path("/proc/sys/kernel/random/boot_id").read_text("ascii").strip()
    except OSError:
        return ""


def compact_utc(seconds: float) -> str:
    """
    Write *seconds* since the epoch in UTC as part of a branch's name, such as ``20261123T091234Z``.
    """
    return time.strftime("%Y%m%dT%H%M%SZ", time.gmtime(seconds))


def timestamp(seconds: float | None) -> str | None:
    """
    Write seconds since the epoch as RFC 3339 in UTC, to the millisecond.
    """
    if seconds is None:
        return None
    return datetime.fromtimestamp(seconds, UTC).isoformat(timespec="milliseconds").replace("+00:00", "Z")
