"""
How far a replica is: at which commit, how far behind origin, and whether it hears the primary.

Read from the files of its clone, so that each process that shares them tells the same.
"""

from __future__ import annotations

import math
import time
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

from ferry.worker.files.atomic_json import read_json
from ferry.worker.files.moments import Moment, timestamp
from ferry.worker.files.places import followed_record, heard_record
from ferry.worker.observe.redaction import redact
from ferry.worker.pipeline import Pipeline
from ferry.worker.settings import ORIGIN
from ferry.worker.status import RemoteStatus

SILENCE_S = 40.0  # the primary's event stream says something every 15 s
_LATE_AFTER_LOOKS = 3
_LATE_AFTER_S = 15.0  # at least, for a look takes time

State = Literal["level", "behind", "late", "apart", "paused"]


@dataclass(frozen=True, slots=True, kw_only=True)
class Level:
    """
    How far a replica is.

    Attributes:
        state: ``level``: it has all of origin, as last seen; ``behind``: origin has commits that are not read
            here yet; ``late``: it has missed several looks at origin; ``apart``: its branch has commits that
            origin lacks, so that it cannot be fast-forwarded; ``paused``: an operator has paused it.
        origin: The URL that it follows, without secrets.
        status: The status of ``origin``: the branch, both tips, when it was seen.
        followed_at: When it last had all of origin, in seconds since the epoch; None: it never had.
        lag_s: Seconds since then; None: it never had.
        primary: URL of the primary; None: not set.
        hears: Whether the primary's event stream is connected.
    """

    state: State
    origin: str
    status: RemoteStatus
    followed_at: float | None
    lag_s: float | None
    primary: str | None
    hears: bool

    @property
    def is_unanswered(self) -> bool:
        """
        Whether origin was asked later than it last answered.
        """
        asked_at, seen_at = self.status.entry.looked_at, self.status.seen_at
        return asked_at is not None and (seen_at is None or asked_at > seen_at)

    @property
    def sentence(self) -> str:
        """
        The state in a sentence.
        """
        if self.state == "late" and self.lag_s is None:
            return "This is a replica, which has not had all of origin yet."
        return {
            "level": "This is a replica: it has all of origin.",
            "behind": "This is a replica: origin has commits that are not read here yet.",
            "late": "This is a replica whose looks at origin fail or have stopped.",
            "apart": "This is a replica that cannot follow origin: its branch has commits that origin lacks.",
            "paused": "This is a replica, which does not look at origin until an operator resumes it.",
        }[self.state]

    def as_json(self) -> dict[str, Any]:
        """
        Return it in the shape of ``replica`` in ``GET /api/_internal/push``.
        """
        return {
            "state": self.state,
            "origin": self.origin,
            "commit": self.status.local_head,
            "followed_at": timestamp(self.followed_at),
            "lag_seconds": None if self.lag_s is None else round(self.lag_s, 3),
            "primary_url": self.primary,
            "primary_stream": self.primary and ("connected" if self.hears else "away"),
        }


def level(pipeline: Pipeline, status: RemoteStatus) -> Level:
    """
    Return how far the replica is.

    Args:
        status: The status of ``origin``.
    """
    settings, path = pipeline.settings, pipeline.repository.path
    followed, heard = _moment(followed_record(path)), _moment(heard_record(path))
    lag = lag_s(pipeline)
    return Level(
        state=_state(status, lag, settings.data_follow_interval_s),
        origin=redact(settings.remotes[ORIGIN]),
        status=status,
        followed_at=None if followed is None else followed.at,
        lag_s=lag,
        primary=settings.api_primary_url,
        hears=heard is not None and heard.age_s(time.time) < SILENCE_S,
    )


def _state(status: RemoteStatus, lag_s: float | None, interval_s: float) -> State:
    if status.state == "paused":
        return "paused"
    if status.pending and status.remote_head is not None:
        return "apart"
    late_after_s = max(_LATE_AFTER_LOOKS * interval_s, _LATE_AFTER_S) if interval_s else math.inf
    if lag_s is None or lag_s > late_after_s:
        return "late"
    return "behind" if status.pending.behind else "level"


def lag_s(pipeline: Pipeline) -> float | None:
    """
    Return for how long a replica has not known that it has all of origin; None before the first time.
    """
    moment = _moment(followed_record(pipeline.repository.path))
    return None if moment is None else moment.age_s(time.time)


def _moment(record: Path) -> Moment | None:
    return Moment.from_json(read_json(record))
