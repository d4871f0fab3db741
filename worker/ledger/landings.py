"""
The last pushes that landed on one remote, for the charts of the status page.

One JSON line per push, beside the ledger, see ``lines``.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from ferry.worker.ledger import lines
from ferry.worker.ledger.events import Event
from ferry.worker.observe.printable import many

KEPT = 500
_LINE_BYTES = 120


@dataclass(frozen=True, slots=True, kw_only=True)
class Landing:
    """
    One push that landed commits on a remote.

    Attributes:
        at: When it landed, in seconds since the epoch.
        lag_s: How long the oldest of its commits had waited.
        duration_s: How long git took.
        commits: How many commits it sent.
    """

    at: float
    lag_s: float
    duration_s: float
    commits: int

    def as_event(self) -> Event:
        """
        Return it as an event of the remote's history.
        """
        detail = f"{many(self.commits, 'commit')}, {self.lag_s:.1f} s after the oldest was made"
        return Event(at=self.at, kind="pushed", detail=detail)


def remember(path: Path, landing: Landing) -> None:
    """
    Add *landing* to the file *path*. The caller holds the remote's claim.
    """
    lines.append(path, asdict(landing), keep=KEPT, line_bytes=_LINE_BYTES)


def recall(path: Path) -> list[Landing]:
    """
    Return the newest landings in *path*, oldest first, at most ``KEPT``.
    """
    return lines.last(path, _landing, keep=KEPT)


def _landing(found: Mapping[str, Any]) -> Landing:
    at, lag_s, duration_s = (float(found[name]) for name in ("at", "lag_s", "duration_s"))
    if not all(map(math.isfinite, (at, lag_s, duration_s))):
        raise ValueError(found)
    return Landing(at=at, lag_s=lag_s, duration_s=duration_s, commits=int(found["commits"]))
