"""
Safe repetition of writes: the same ``Idempotency-Key``, the same answer, one commit.

An answer is stored before its commit is made, under the write lock, and the commit carries the key's hash as
a trailer. So after any crash the next request with that key can tell from the branch whether the commit was
made. Answers are kept for at least a day on the repository's volume, for every process and across restarts.
"""

from __future__ import annotations

import contextlib
import hashlib
import json
import os
import re
import shutil
import time
import uuid
from collections.abc import Callable
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from ferry.app.errors import BusyError, DiskFullError, InvalidKeyError, KeyReusedError, KeysExhaustedError
from ferry.worker.errors import RepositoryError
from ferry.worker.files.atomic_json import replace_file
from ferry.worker.files.flushing import flush
from ferry.worker.files.places import idempotency_directory
from ferry.worker.files.room import NO_ROOM
from ferry.worker.files.sharing import inherit, make_directories
from ferry.worker.git.refs import OBJECT_NAME
from ferry.worker.git.repository import Repository

TRAILER = "Idempotency-Key"
KEY = re.compile(r"[\x21-\x7e]{1,255}")
_DAY_S = 24 * 3600
_KEPT_DAYS = 2
MOST_KEYS = 50_000  # per caller and day; each takes two small files
_STATED = frozenset({"status", "body", "headers"})
# A day's number since the epoch, and the number of the day on which its directory was marked for removal.
_DAY = re.compile(r"(\d+)(?:\.(\d+))?")
_UNCHANGED = "unchanged"
_STORED_AS = "$blob"
_ID = re.compile(r"(?:[0-9a-f]{32})?")  # earlier releases wrote none


@dataclass(frozen=True, slots=True, kw_only=True)
class KeyedWrite:
    """
    One write that carries a key.

    Attributes:
        caller: Hash of the caller.
        name: Hash of the caller and the key; the value of the trailer.
        fingerprint: Hash of the request: another request must not use the same key.
    """

    caller: str
    name: str
    fingerprint: str

    @classmethod
    def of(cls, actor: str, key: str, request: bytes) -> KeyedWrite:
        """
        Return the write of *actor* with *key*.

        Raises:
            InvalidKeyError: *key* cannot be one.
        """
        if not KEY.fullmatch(key):
            raise InvalidKeyError("The Idempotency-Key is not 1 to 255 printable ASCII characters.")
        name = hashlib.sha256(f"{actor}\0{key}".encode()).hexdigest()[:32]
        caller = hashlib.sha256(actor.encode()).hexdigest()[:32]
        return cls(caller=caller, name=name, fingerprint=hashlib.sha256(request).hexdigest())

    def part(self, number: int) -> KeyedWrite:
        """
        Return the write of one of the commits that this write makes.
        """
        return replace(self, name=hashlib.sha256(f"{self.name}\0{number}".encode()).hexdigest()[:32])


@dataclass(frozen=True, slots=True, kw_only=True)
class StoredAnswer:
    """
    The result of an earlier request with the same key.

    Attributes:
        answer: The answer that was passed to ``begin``; None if a crash has damaged it.
        commit: The commit that it made; None if it changed nothing.
    """

    answer: dict[str, Any] | None
    commit: str | None


@dataclass(frozen=True, slots=True, kw_only=True)
class Place:
    """
    Where an answer is stored.

    Attributes:
        record: Its file.
        id: Identifies the answer: a later one may replace it in the same file.
    """

    record: Path
    id: str

    @property
    def commit(self) -> Path:
        """
        The file with the name of its commit.
        """
        return self.record.with_suffix(".commit")


class IdempotencyStore:
    """
    The answers of the last days, by key.

    An answer is written once, before its commit, and flushed with it. The commit's name goes to a second
    file, which may be lost: the commit's trailer has the key too. Each day has a directory, and a look-up
    reads all of them: the clock decides where a new answer goes, not which answers are known.

    The caller of every method but ``finish`` holds the write lock.

    Args:
        repository: The data repository.
        clock: Seconds since the epoch.
    """

    def __init__(self, repository: Repository, *, clock: Callable[[], float] = time.time) -> None:
        self._repository = repository
        self._directory = idempotency_directory(repository.path)
        self._clock = clock

    def recall(self, write: KeyedWrite, head: str | None) -> StoredAnswer | None:
        """
        Return the result of an earlier request with this key, or None.

        Args:
            head: The commit that the next commit is made on.

        Raises:
            KeyReusedError: That request was a different one.
            BusyError: The stored answers cannot be read now.
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
        if "commit" in record:  # earlier releases wrote it here
            known = record["commit"] or _UNCHANGED
        # A file that a power cut has emptied has no base: the whole branch is searched.
        commit = known or self._made_since(record.get("base"), head, write)
        if commit is None:
            return None  # the commit was never made
        return StoredAnswer(answer=record.get("answer"), commit=None if commit == _UNCHANGED else commit)

    def begin(self, write: KeyedWrite, answer: dict[str, Any], *, base: str | None) -> Place:
        """
        Store *answer* before its commit is made, somewhere after *base*; returns its place.

        It is durable when the commit is. It holds no records, which are in the repository.

        Raises:
            BusyError, DiskFullError: It cannot be stored.
            KeysExhaustedError: The caller has used up the keys of this day.
        """
        record = {"id": uuid.uuid4().hex, "fingerprint": write.fingerprint, "base": base, "answer": answer}
        try:
            # An existing file belongs to a commit that was never made. Only a flushed file may replace it.
            before = self._find(write)
            path = before or self._place_of(write)
            replace_file(path, json.dumps(record).encode(), durably=before is not None)
        except OSError as exc:
            if exc.errno in NO_ROOM:
                raise DiskFullError("The data repository's disk is full; nothing was written.") from exc
            raise BusyError(f"The answer cannot be stored: {exc.strerror}.") from exc
        return Place(record=path, id=str(record["id"]))

    @staticmethod
    def finish(place: Place, commit: str | None) -> None:
        """
        Note the name of the commit for the answer at *place*; None if nothing was committed.
        """
        with contextlib.suppress(OSError):  # the commit's trailer has it too
            replace_file(place.commit, f"{place.id} {commit or _UNCHANGED}\n".encode(), durably=False)
            if commit is None:
                flush(place.record.parent)  # no commit was made that would have flushed the answer

    def _made_since(self, base: str | None, head: str | None, write: KeyedWrite) -> str | None:
        if head is None:
            return None
        try:
            # If the branch was rewritten since, search all of it.
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
        Return the directories, the latest day first.
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
        Return the file for a new key, and count the key for its caller.
        """
        today = self._today()
        # One byte for each key, so that the file's size is their number.
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
        Mark old directories, and remove them two days later, so that a step of the clock removes nothing.
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
    Return the body of an answer with each record replaced by its version.

    Args:
        version: Version of the body's own record, if it has one.
    """
    if "results" in body:
        results = [without_records(each, _version(each.get("etag"))) for each in body["results"]]
        return {**body, "results": results}
    if isinstance(body.get("record"), dict) and version:
        return {**body, "record": {_STORED_AS: version}}
    return body


def with_records(
    body: dict[str, Any], sheet: str, read: Callable[[str, str], dict[str, Any]]
) -> dict[str, Any]:
    """
    Return the body as it was before ``without_records``.

    Args:
        sheet: The sheet of its record, unless the body names one.
        read: Returns the record of a sheet with a version.
    """
    if "results" in body:
        return {**body, "results": [with_records(each, each["sheet"], read) for each in body["results"]]}
    record = body.get("record")
    if isinstance(record, dict) and record.keys() == {_STORED_AS}:
        return {**body, "record": read(sheet, record[_STORED_AS])}
    return body


def _version(etag: str | None) -> str | None:
    return etag.strip('"') if etag else None


def _record(content: bytes) -> dict[str, Any]:
    """
    Return the stored answer in a file; an empty dict if the file is damaged.
    """
    try:
        record = json.loads(content)
        base, answer = record["base"], record["answer"]
        is_whole = isinstance(record["fingerprint"], str) and _STATED <= answer.keys() <= _STATED | {"sheet"}
    except (ValueError, TypeError, LookupError, AttributeError, RecursionError):
        return {}
    has_base = base is None or OBJECT_NAME.fullmatch(str(base))
    return record if is_whole and has_base and _ID.fullmatch(str(record.get("id", ""))) else {}


def _commit(place: Place) -> str | None:
    try:
        text = place.commit.read_text("ascii", "replace")
    except FileNotFoundError:
        return None
    found = re.fullmatch(rf"{place.id} ([0-9a-f]{{40}}|{_UNCHANGED})\n", text) if place.id else None
    return found[1] if found else None
