"""
The history of one remote over the last weeks: failure episodes, and operators' actions.

One JSON line per event, beside the ledger, see ``lines``.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, Literal

from ferry.worker.ledger import lines
from ferry.worker.observe.printable import in_line

Kind = Literal[
    "failing", "recovered", "paused", "resumed", "requested", "reconciled", "not-reconciled", "received",
    "branch-removed", "promoted",
]  # fmt: skip

KEPT = 1000
_LINE_BYTES = 400
# A longer text is cut at the end.
_TEXT_CHARACTERS = 300


@dataclass(frozen=True, slots=True, kw_only=True)
class Event:
    """
    One event.

    Attributes:
        at: When, in seconds since the epoch.
        kind: ``failing``: a failure for a new reason; ``recovered``: the push that ended the failures; else
            an operator's action.
        by: The operator, see ``ferry.worker.ledger.operators``.
        why: The reason that the operator gave.
        detail: The reason of the failure and git's message, or the result of the action.
    """

    at: float
    kind: str
    by: str = ""
    why: str = ""
    detail: str = ""

    def told(self) -> str:
        """
        Return the event in one line.
        """
        by, why = (f" by {self.by}" if self.by else ""), (f" ({self.why})" if self.why else "")
        return f"{self.kind}{by}{why}{f': {self.detail}' if self.detail else ''}"


def remember(path: Path, event: Event) -> None:
    """
    Add *event* to the file *path*; never raises.
    """
    shown = {
        name: " ".join(in_line(value).split())[:_TEXT_CHARACTERS] if isinstance(value, str) else value
        for name, value in asdict(event).items()
    }
    lines.append(path, shown, keep=KEPT, line_bytes=_LINE_BYTES)


def recall(path: Path) -> list[Event]:
    """
    Return the newest events in *path*, oldest first, at most ``KEPT``.
    """
    return lines.last(path, _event, keep=KEPT)


def _event(found: Mapping[str, Any]) -> Event:
    at, kind = float(found["at"]), str(found["kind"])
    if not math.isfinite(at):
        raise ValueError(found)
    return Event(at=at, kind=kind, **{name: str(found.get(name, "")) for name in ("by", "why", "detail")})
