"""
Repeating a write safely: the same ``Idempotency-Key``, the same answer, one commit.

An answer is kept before its commit is made, under the write lock, and the commit
carries the key's hash as a trailer. So whatever dies in between, the next request
with that key finds out from the branch whether the commit was made: kept for a
day, on the repository's own volume, for every process and after any restart.
"""

from __future__ import annotations

import contextlib
import hashlib
import re
import shutil
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from app.problems import Problem
from worker.atomic_json import read_json, write_json
from worker.git import Repository
from worker.prepare import state_directory
from worker.sharing import make_directories

TRAILER = "Idempotency-Key"
KEY = re.compile(r"[\x21-\x7e]{1,255}")
_DAY_S = 24 * 3600
_MOST_COMMITS_SINCE = 1000


@dataclass(frozen=True, slots=True, kw_only=True)
class Attempt:
    """
    One write that carries a key.

    Attributes:
        name: Hash of the caller and the key: what the trailer holds.
        fingerprint: Hash of the request: another one with the same key is a mistake.
    """

    name: str
    fingerprint: str

    @classmethod
    def of(cls, actor: str, key: str, request: bytes) -> Attempt:
        """
        Describe the write of *actor* with *key*.

        Raises:
            Problem: 400 where the key is none.
        """
        if not KEY.fullmatch(key):
            raise Problem(
                400,
                "idempotency-key-invalid",
                "The Idempotency-Key is not 1 to 255 printable ASCII characters.",
                "Send a fresh UUID for each write, and the same one when you repeat it.",
            )
        name = hashlib.sha256(f"{actor}\0{key}".encode()).hexdigest()[:32]
        return cls(name=name, fingerprint=hashlib.sha256(request).hexdigest())


class Answers:
    """
    The answers of the last day to two, by key.

    Only for whoever holds the write lock.

    Args:
        repository: The data repository.
        clock: Seconds since the epoch.
    """

    def __init__(self, repository: Repository, *, clock: Callable[[], float] = time.time) -> None:
        self._repository = repository
        self._directory = state_directory(repository.path) / "idempotency"
        self._clock = clock

    def recall(self, attempt: Attempt, head: str | None) -> dict[str, Any] | None:
        """
        Return the answer that an earlier request with this key had, or None where there was none.

        Args:
            head: The commit that the next is made on.

        Raises:
            Problem: 422 where that request was another.
        """
        kept = next(
            (found for day in self._days() if (found := read_json(day / f"{attempt.name}.json"))), None
        )
        if kept is None:
            return None
        if kept["fingerprint"] != attempt.fingerprint:
            raise Problem(
                422,
                "idempotency-key-reused",
                "Another request was made with this Idempotency-Key.",
                "Send a fresh key for each write; repeat a write with the same body.",
            )
        if "commit" not in kept:
            kept["commit"] = self._made_since(kept["base"], head, attempt)
            if kept["commit"] is None:
                return None  # its commit was never made
        return dict(kept)

    def begin(self, attempt: Attempt, answer: dict[str, Any], *, base: str | None) -> Path:
        """
        Keep *answer* before its commit is made somewhere after *base*; returns where.
        """
        today = self._days()[0]
        if not today.exists():
            self._forget()
            make_directories(str(self._repository.path), today)
        path = today / f"{attempt.name}.json"
        write_json(path, {"fingerprint": attempt.fingerprint, "base": base, "answer": answer})
        return path

    @staticmethod
    def finish(path: Path, commit: str | None) -> None:
        """
        Add to the answer that ``begin`` kept at *path* what its commit is called.
        """
        with contextlib.suppress(OSError):  # the trailer says so too
            write_json(path, {**read_json(path), "commit": commit})

    def _made_since(self, base: str | None, head: str | None, attempt: Attempt) -> str | None:
        if head is None:
            return None
        commits = self._repository.log(head, limit=_MOST_COMMITS_SINCE, without=base)
        return next((each.hash for each in commits if each.trailers.get(TRAILER) == attempt.name), None)

    def _days(self) -> list[Path]:
        """
        Return today's directory and yesterday's.
        """
        number = int(self._clock() // _DAY_S)
        return [self._directory / str(number), self._directory / str(number - 1)]

    def _forget(self) -> None:
        if self._directory.exists():
            for old in set(self._directory.iterdir()) - set(self._days()):
                shutil.rmtree(old, ignore_errors=True)
