"""
Repeating a write safely: the same ``Idempotency-Key``, the same answer, one commit.

An answer is kept before its commit is made, under the write lock, and the commit
carries the key's hash as a trailer. So whatever dies in between, the next request
with that key finds out from the branch whether the commit was made: kept for a
day and longer, on the repository's own volume, for every process and after any restart.
"""

from __future__ import annotations

import contextlib
import errno
import hashlib
import json
import os
import re
import shutil
import time
import uuid
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from ferry.app.errors import BusyError, DiskFullError, InvalidKeyError, KeyReusedError, KeysExhaustedError
from ferry.worker.errors import RepositoryError
from ferry.worker.files.sharing import inherit, make_directories
from ferry.worker.git.prepare import state_directory
from ferry.worker.git.refs import flush
from ferry.worker.git.repository import Repository

TRAILER = "Idempotency-Key"
KEY = re.compile(r"[\x21-\x7e]{1,255}")
_DAY_S = 24 * 3600
_KEPT_DAYS = 2
MOST_KEYS = 50_000  # of one caller and day; each takes two small files
_STATED = frozenset({"status", "body", "headers"})
_DAY = re.compile(r"(\d+)(?:\.(\d+))?")  # its number since the epoch, and that of the day it was given up
_UNCHANGED = "unchanged"
_KEPT_AS = "$blob"
_OBJECT_NAME = re.compile(r"[0-9a-f]{40}")
_ID = re.compile(r"(?:[0-9a-f]{32})?")  # releases before wrote none


@dataclass(frozen=True, slots=True, kw_only=True)
class KeyedWrite:
    """
    One write that carries a key.

    Attributes:
        caller: Hash of the caller.
        name: Hash of the caller and the key: what the trailer holds.
        fingerprint: Hash of the request: another one with the same key is a mistake.
    """

    caller: str
    name: str
    fingerprint: str

    @classmethod
    def of(cls, actor: str, key: str, request: bytes) -> KeyedWrite:
        """
        Describe the write of *actor* with *key*.

        Raises:
            InvalidKeyError: *key* cannot be one.
        """
        if not KEY.fullmatch(key):
            raise InvalidKeyError("The Idempotency-Key is not 1 to 255 printable ASCII characters.")
        name = hashlib.sha256(f"{actor}\0{key}".encode()).hexdigest()[:32]
        caller = hashlib.sha256(actor.encode()).hexdigest()[:32]
        return cls(caller=caller, name=name, fingerprint=hashlib.sha256(request).hexdigest())


@dataclass(frozen=True, slots=True, kw_only=True)
class StoredAnswer:
    """
    What an earlier request with the same key came to.

    Attributes:
        answer: What it was answered, as ``begin`` was given it; None: a crash has damaged that.
        commit: The commit that it made; None: it changed nothing.
    """

    answer: dict[str, Any] | None
    commit: str | None


@dataclass(frozen=True, slots=True, kw_only=True)
class Place:
    """
    Where an answer is kept.

    Attributes:
        record: Its file.
        id: What tells it from another answer in the same file.
    """

    record: Path
    id: str

    @property
    def commit(self) -> Path:
        """
        The file that says what its commit is called.
        """
        return self.record.with_suffix(".commit")


class IdempotencyStore:
    """
    The answers of the last days, by key.

    A record is written once, before its commit, and flushed with it; what its commit is called
    goes into a second file, which may be lost: the commit says so itself. Records are in a
    directory for each day, and every directory there is counts: the clock decides where a new
    record goes, not which ones are known.

    Only for the holder of the write lock, but for ``finish``.

    Args:
        repository: The data repository.
        clock: Seconds since the epoch.
    """

    def __init__(self, repository: Repository, *, clock: Callable[[], float] = time.time) -> None:
        self._repository = repository
        self._directory = state_directory(repository.path) / "idempotency"
        self._clock = clock

    def recall(self, write: KeyedWrite, head: str | None) -> StoredAnswer | None:
        """
        Return what an earlier request with this key came to, or None where there was none.

        Args:
            head: The commit that the next is made on.

        Raises:
            KeyReusedError: That request was a different one.
            BusyError: It cannot be read now whether there was one.
        """
        try:
            path = self._find(write)
            if path is None:
                return None
            record = _record(path.read_bytes())
            known = _commit(Place(record=path, id=record.get("id", "")))
        except OSError as exc:
            raise BusyError(f"The answers to earlier requests cannot be read: {exc.strerror}.") from exc
        if record.get("fingerprint", write.fingerprint) != write.fingerprint:
            raise KeyReusedError
        if "commit" in record:  # releases before wrote the record again
            known = record["commit"] or _UNCHANGED
        # A record that a power cut has emptied, as it could be, has no base: the whole branch is searched.
        commit = known or self._made_since(record.get("base"), head, write)
        if commit is None:
            return None  # it was never made
        return StoredAnswer(answer=record.get("answer"), commit=None if commit == _UNCHANGED else commit)

    def begin(self, write: KeyedWrite, answer: dict[str, Any], *, base: str | None) -> Place:
        """
        Keep *answer* before its commit is made somewhere after *base*; returns where.

        It is on the disk when the commit is. It holds no record: those are in the repository.

        Raises:
            BusyError, DiskFullError: It cannot be kept.
            KeysExhaustedError: The caller has used up the keys of this day.
        """
        record = {"id": uuid.uuid4().hex, "fingerprint": write.fingerprint, "base": base, "answer": answer}
        try:
            # What is there already belongs to a commit that was never made. Its place on the disk is taken
            # by what is on the disk.
            before = self._find(write)
            path = before or self._place_of(write)
            _write(path, json.dumps(record), is_flushed=before is not None)
        except OSError as exc:
            if exc.errno in (errno.ENOSPC, errno.EDQUOT):
                raise DiskFullError("The data repository's disk is full; nothing was written.") from exc
            raise BusyError(f"The answer cannot be kept: {exc.strerror}.") from exc
        return Place(record=path, id=str(record["id"]))

    @staticmethod
    def finish(place: Place, commit: str | None) -> None:
        """
        Note what the commit of the answer at *place* is called; None: there was nothing to commit.
        """
        with contextlib.suppress(OSError):  # the commit's trailer says so too
            _write(place.commit, f"{place.id} {commit or _UNCHANGED}\n")
            if commit is None:
                flush(place.record.parent)  # no commit has taken the answer to the disk

    def _made_since(self, base: str | None, head: str | None, write: KeyedWrite) -> str | None:
        if head is None:
            return None
        try:
            # A branch that was rewritten since has it in another place.
            base = base if base and self._repository.contains(base, head) else None
            commits = self._repository.log(head, without=base, saying=f"{TRAILER}: {write.name}")
        except (RepositoryError, OSError) as exc:
            raise BusyError(f"The commits since the first request cannot be read: {exc}") from exc
        return next((each.hash for each in commits if each.trailers.get(TRAILER) == write.name), None)

    def _find(self, write: KeyedWrite) -> Path | None:
        for day in self._days():
            path = day / f"{write.name}.json"
            try:
                path.stat()
            except (FileNotFoundError, NotADirectoryError):
                continue
            return path
        return None

    def _days(self) -> list[Path]:
        """
        Return the directories there are, those of later days first.
        """
        try:
            names = os.listdir(self._directory)
        except FileNotFoundError:
            return []
        days = sorted(
            filter(_DAY.fullmatch, names), key=lambda name: int(name.partition(".")[0]), reverse=True
        )
        return [self._directory / day for day in days]

    def _place_of(self, write: KeyedWrite) -> Path:
        """
        Return where the answer to a new key goes, and count that for its caller.
        """
        today = self._today()
        # A byte for each key: its size says how many there were.
        with (today / f"{write.caller}.count").open("ab") as count:
            if count.tell() >= MOST_KEYS:
                raise KeysExhaustedError(
                    f"This caller has sent {MOST_KEYS} Idempotency-Keys today.",
                    retry_after_s=_DAY_S - int(self._clock() % _DAY_S),
                )
            count.write(b".")
            inherit(count.fileno(), today)
        return today / f"{write.name}.json"

    def _today(self) -> Path:
        number = int(self._clock() // _DAY_S)
        today = self._directory / str(number)
        if not today.exists():
            self._forget(number)
            make_directories(str(self._repository.path), today)
        return today

    def _forget(self, today: int) -> None:
        """
        Remove directories in two steps, two days apart: the clock may step, and removes nothing by that.
        """
        for day in self._days():
            number, _, condemned = day.name.partition(".")
            if condemned and today - int(condemned) >= _KEPT_DAYS:
                shutil.rmtree(day, ignore_errors=True)
            elif not condemned and today - int(number) >= _KEPT_DAYS:
                with contextlib.suppress(OSError):
                    day.rename(day.with_name(f"{number}.{today}"))


def without_records(body: dict[str, Any], version: str | None) -> dict[str, Any]:
    """
    Return the body of an answer with the versions of its records in their places.

    Args:
        version: That of the record of the body itself, where it has one.
    """
    if "results" in body:
        results = [without_records(each, _version(each.get("etag"))) for each in body["results"]]
        return {**body, "results": results}
    if isinstance(body.get("record"), dict) and version:
        return {**body, "record": {_KEPT_AS: version}}
    return body


def with_records(
    body: dict[str, Any], sheet: str, read: Callable[[str, str], dict[str, Any]]
) -> dict[str, Any]:
    """
    Return the body as it was before ``without_records``.

    Args:
        sheet: The sheet of its record, where it names none itself.
        read: Returns the record of a sheet that has a version.
    """
    if "results" in body:
        return {**body, "results": [with_records(each, each["sheet"], read) for each in body["results"]]}
    record = body.get("record")
    if isinstance(record, dict) and record.keys() == {_KEPT_AS}:
        return {**body, "record": read(sheet, record[_KEPT_AS])}
    return body


def _version(etag: str | None) -> str | None:
    return etag.strip('"') if etag else None


def _record(content: bytes) -> dict[str, Any]:
    """
    Return the record in a file; an empty one where the file is damaged.
    """
    try:
        record = json.loads(content)
        base, answer = record["base"], record["answer"]
        is_whole = isinstance(record["fingerprint"], str) and _STATED <= answer.keys() <= _STATED | {"sheet"}
    except (ValueError, TypeError, LookupError, AttributeError, RecursionError):
        return {}
    has_base = base is None or _OBJECT_NAME.fullmatch(str(base))
    return record if is_whole and has_base and _ID.fullmatch(str(record.get("id", ""))) else {}


def _commit(place: Place) -> str | None:
    try:
        text = place.commit.read_text("ascii", "replace")
    except FileNotFoundError:
        return None
    found = re.fullmatch(rf"{place.id} ([0-9a-f]{{40}}|{_UNCHANGED})\n", text) if place.id else None
    return found[1] if found else None


def _write(path: Path, content: str, *, is_flushed: bool = False) -> None:
    """
    Put a file at *path*, whole or not at all, in the place of one that may be there.
    """
    fresh = path.with_name(f"{path.name}.{uuid.uuid4().hex}")
    try:
        with fresh.open("x") as file:
            file.write(content)
            inherit(fresh, path.parent)
            if is_flushed:
                file.flush()
                os.fsync(file.fileno())
        fresh.replace(path)
    except OSError:
        with contextlib.suppress(OSError):
            fresh.unlink()
        raise
