"""
The pages that Sentry has not accepted yet: one small file each, in the repository beside the ledger.

A page that Sentry refused or did not acknowledge outlives the process that sent it, and the next process that
checks sends it again. Its name is the event's id, so Sentry stores one event, however often it is sent.

A file's modification time is when the page is due again. A process sets it past the expected end of the
sending before it sends, so that two processes rarely send the same page.
"""

from __future__ import annotations

import contextlib
import json
import os
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

from ferry.worker.files.atomic_json import read_json, replace_file
from ferry.worker.files.flushing import flush_directory
from ferry.worker.files.sharing import inherit
from ferry.worker.observe.logs import log

_MOST = 100  # otherwise an unreachable Sentry would fill the disk
_LONGEST_WAIT_S = 3600.0
_ROOM_BYTES = 1 << 16

Event = dict[str, Any]


class Outbox:
    """
    The pages of one repository.

    Args:
        directory: Their directory; made for the first page.
        clock: Seconds since the epoch.
    """

    def __init__(self, directory: Path, *, clock: Callable[[], float] = time.time) -> None:
        self._directory = directory
        self._spare = directory / "spare"
        self._clock = clock

    def put(self, event: Event, *, busy_s: float) -> None:
        """
        Store *event* until ``remove``; it counts as being sent for *busy_s* seconds.

        Raises:
            OSError: It cannot be written.
        """
        for oldest in sorted(self._directory.glob("*.json"), key=_changed_at)[: 1 - _MOST]:
            log().warning(
                "page.lost", event_id=oldest.stem, hint="Sentry accepted none of the last 100 pages"
            )
            oldest.unlink(missing_ok=True)
        content = json.dumps({"event": event, "made_at": self._clock()}).encode()
        path = self._path(event["event_id"])
        try:
            self._make_directory()
            # Flushed, because the ledger durably records that a page was sent.
            replace_file(path, content, durably=True)
        except OSError:
            with self._spare.open("r+b") as spare:
                spare.write(content)
                spare.truncate()
                spare.flush()
                os.fsync(spare.fileno())
            os.replace(self._spare, path)
            flush_directory(self._directory)
        self.postpone(event["event_id"], busy_s)

    def due(self) -> Iterator[Event]:
        """
        Return the events that are due; removes damaged files.
        """
        now = self._clock()
        for path in sorted(self._directory.glob("*.json"), key=_changed_at):
            # If it is further away, the clock was set back.
            if now < _changed_at(path) <= now + _LONGEST_WAIT_S:
                continue
            try:
                event = json.loads(path.read_bytes())["event"]
                if event["event_id"] == path.stem:
                    yield event
                    continue
            except OSError:
                continue  # unreadable for now, or another process has just sent and removed it
            except (ValueError, LookupError, TypeError):
                pass
            self.remove(path.stem)

    def age_s(self, event_id: str) -> float:
        """
        Return the age of a page, in seconds.
        """
        now = self._clock()
        made_at = read_json(self._path(event_id)).get("made_at")
        return max(0.0, now - made_at) if isinstance(made_at, (int, float)) else 0.0

    def postpone(self, event_id: str, wait_s: float) -> None:
        """
        Make a page due in *wait_s* seconds, an hour at most.
        """
        at = self._clock() + min(wait_s, _LONGEST_WAIT_S)
        with contextlib.suppress(OSError):  # another process has sent and removed it
            os.utime(self._path(event_id), (at, at))

    def remove(self, event_id: str) -> None:
        """
        Remove a page that Sentry accepted.
        """
        with contextlib.suppress(OSError):  # otherwise it is sent again, and Sentry keeps one event
            self._path(event_id).unlink()
        self.reserve()

    def release(self) -> None:
        """
        Make every page due now, because the processes that were sending them have ended.
        """
        for path in self._directory.glob("*.json"):
            self.postpone(path.stem, 0.0)

    def reserve(self) -> None:
        """
        Reserve disk space for one page, because a full disk is itself a reason to page.
        """
        with contextlib.suppress(OSError):
            self._make_directory()
            if not self._spare.exists():
                replace_file(self._spare, b"\0" * _ROOM_BYTES, durably=False)

    def _make_directory(self) -> None:
        if not self._directory.is_dir():
            self._directory.mkdir(exist_ok=True)
            inherit(self._directory, self._directory.parent)

    def _path(self, event_id: str) -> Path:
        return self._directory / f"{event_id}.json"


def _changed_at(path: Path) -> float:
    try:
        return path.stat().st_mtime
    except OSError:
        return 0.0
