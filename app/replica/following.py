"""
How a replica keeps up: by its API's own process, without a worker or a broker.

One process of those that share the repository follows, and another takes its place when that ends. It looks
at origin every ``CFP_DATA_FOLLOW_INTERVAL`` seconds, and at once when the primary's event stream tells of a
push.
"""

from __future__ import annotations

import contextlib
import http.client
import math
import os
import threading
import time
import urllib.error
import urllib.request

from ferry.app.replica.level import SILENCE_S
from ferry.worker.errors import WorkerError
from ferry.worker.files.atomic_json import write_json
from ferry.worker.files.locks import FileLock
from ferry.worker.files.moments import Moment
from ferry.worker.files.places import followed_record, follower_lock, heard_record
from ferry.worker.follow import LEVEL
from ferry.worker.observe.logs import log
from ferry.worker.pipeline import Pipeline
from ferry.worker.settings import ORIGIN

_TAKE_OVER_S = 1.0  # between two tries to be the process that follows
_NUDGED_S = 0.25  # between two looks whether another process was told
_NOTED_S = 5.0  # between two notes that the primary is heard
_AGAIN_S = (1.0, 30.0)  # between two tries to listen
_ONLY_WHEN_TOLD_S = 3600.0  # packing is looked after then


class Following:
    """
    Follows origin in a thread, and listens to the primary in another.

    Args:
        pipeline: The replica's.
    """

    def __init__(self, pipeline: Pipeline) -> None:
        self._pipeline = pipeline
        self._lock = FileLock(follower_lock(pipeline.repository.path))
        self._interval_s = pipeline.settings.data_follow_interval_s or _ONLY_WHEN_TOLD_S
        self._primary = pipeline.settings.api_primary_url
        self._told = threading.Event()
        self._is_ours = threading.Event()
        self._packing = threading.Thread()  # none yet

    def start(self) -> None:
        """
        Follow from now on, in this process and in each that it forks.
        """
        os.register_at_fork(after_in_child=self._start)
        self._start()

    def _start(self) -> None:
        self._told = threading.Event()
        self._is_ours = threading.Event()
        self._packing = threading.Thread()
        threading.Thread(target=self._follow, name="following", daemon=True).start()
        if self._primary:
            threading.Thread(target=self._listen, name="listening", daemon=True).start()

    def _follow(self) -> None:
        while True:
            with contextlib.suppress(OSError), self._lock.try_hold() as is_ours:
                if is_ours:
                    self._is_ours.set()
                    self._go_on()
            time.sleep(_TAKE_OVER_S)

    def _go_on(self) -> None:
        wait_s = _AGAIN_S[0]
        while True:
            if self._told.is_set():
                self._pipeline.ledger.nudge(ORIGIN)  # it is kept until a look has followed it
                self._told.clear()
            try:
                self.once()
            except Exception as exc:  # noqa: BLE001 - the thread's edge: it must not end
                log().error("replica.not_followed", error=f"{type(exc).__name__}: {exc}")
            if self._pipeline.follower.is_nudged():  # the look was left to another, or failed
                time.sleep(wait_s)
                wait_s = min(2 * wait_s, _AGAIN_S[1])
            else:
                wait_s = _AGAIN_S[0]
            self.wait()

    def wait(self) -> None:
        """
        Wait for the next look at origin: the interval is over, or the primary or a webhook told of a push.
        """
        due = time.monotonic() + self._interval_s
        while time.monotonic() < due and not self._pipeline.follower.is_nudged():
            if self._told.wait(_NUDGED_S):
                return

    def once(self) -> str:
        """
        Look at origin, and take over what it has; returns what came of it in a few words.
        """
        pipeline = self._pipeline
        outcome = pipeline.follower.follow()
        if outcome == LEVEL or outcome.startswith("fast-forwarded"):
            write_json(followed_record(pipeline.repository.path), Moment.now(time.time).as_json())
        with contextlib.suppress(WorkerError):
            if not self._packing.is_alive() and pipeline.maintenance.is_due():
                self._packing = threading.Thread(target=self._pack, name="packing", daemon=True)
                self._packing.start()
        return outcome

    def _pack(self) -> None:
        """
        Pack the clone, in a thread of its own: that may last, and readers wait for what origin has.
        """
        try:
            self._pipeline.maintenance.run()
        except WorkerError as exc:
            log().warning("replica.not_packed", error=str(exc))

    def _listen(self) -> None:
        self._is_ours.wait()
        self._note(is_heard=False)  # a process that was killed may have left its note
        wait_s = _AGAIN_S[0]
        while True:
            begun = time.monotonic()
            try:
                self._hear()
            except (OSError, http.client.HTTPException, ValueError) as exc:
                log().warning("replica.primary_not_heard", url=self._primary, error=str(exc))
            self._note(is_heard=False)
            has_heard = time.monotonic() - begun > _AGAIN_S[1]
            wait_s = _AGAIN_S[0] if has_heard else min(2 * wait_s, _AGAIN_S[1])
            time.sleep(wait_s)

    def _hear(self) -> None:
        """
        Look at origin whenever the primary has pushed, until its stream ends.
        """
        noted = -math.inf
        with urllib.request.urlopen(f"{self._primary}/api/events", timeout=SILENCE_S) as stream:  # noqa: S310
            self._told.set()  # for what it pushed before
            for line in stream:
                if line.rstrip() == b"event: push":
                    self._told.set()
                if time.monotonic() - noted > _NOTED_S:
                    self._note(is_heard=True)
                    noted = time.monotonic()

    def _note(self, *, is_heard: bool) -> None:
        """
        Note for the status page whether the primary is heard. A disk that is full does not end the listening.
        """
        record = heard_record(self._pipeline.repository.path)
        with contextlib.suppress(OSError):
            if is_heard:
                write_json(record, Moment.now(time.time).as_json())
            else:
                record.unlink(missing_ok=True)
