"""
The last pushes that landed on one remote, for the charts of the status page.

One JSON line per push, beside the ledger. No decision depends on it: a line that
cannot be written is left out, and one that cannot be read is skipped.
"""

from __future__ import annotations

import json
import math
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from ferry.worker.files.atomic_json import replace_file
from ferry.worker.files.sharing import inherit
from ferry.worker.observe.logs import log

KEPT = 500
# Each push appends a line; the file is shortened only once it is this much too long.
_SLACK_BYTES = 64 << 10
_LINE_BYTES = 120


@dataclass(frozen=True, slots=True, kw_only=True)
class Landing:
    """
    One push that brought commits to a remote.

    Attributes:
        at: When it had landed, in seconds since the epoch.
        lag_s: How long the oldest of its commits had waited.
        duration_s: How long git took.
        commits: How many commits it brought.
    """

    at: float
    lag_s: float
    duration_s: float
    commits: int


def remember(path: Path, landing: Landing) -> None:
    """
    Add *landing* to the file *path*. For the holder of the remote's claim.

    Never raises: a full disk must not keep commits from leaving it.
    """
    try:
        with path.open("ab") as history:
            # A line that a full disk cut short must not take the next one with it.
            start = b"\n" if history.tell() else b""
            history.write(start + json.dumps(asdict(landing)).encode())
            if start == b"":
                inherit(history.fileno(), path.parent)
            size = history.tell()
        if size > KEPT * _LINE_BYTES + _SLACK_BYTES:
            replace_file(path, b"\n".join(path.read_bytes().splitlines()[-KEPT:]), durably=False)
    except OSError as exc:
        log().warning("history.write_failed", path=str(path), error=str(exc))


def recall(path: Path) -> list[Landing]:
    """
    Return the newest landings in *path*, oldest first, at most ``KEPT``.
    """
    try:
        lines = path.read_bytes().splitlines()
    except OSError:
        return []
    return [landing for line in lines[-KEPT:] if (landing := _landing(line))]


def _landing(line: bytes) -> Landing | None:
    try:
        found: dict[str, Any] = json.loads(line)
        at, lag_s, duration_s = (float(found[name]) for name in ("at", "lag_s", "duration_s"))
        if not all(map(math.isfinite, (at, lag_s, duration_s))):
            return None
        return Landing(at=at, lag_s=lag_s, duration_s=duration_s, commits=int(found["commits"]))
    except (KeyError, TypeError, ValueError):
        return None
