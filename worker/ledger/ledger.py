"""
The ledger: one small file per remote, in the repository.

Which commits are pending follows from git alone. The ledger records what git cannot know: the attempts, the
scheduled retry, the last error, and the pages of the episode. Only the holder of the remote's claim writes
it. It is replaced atomically, so every process on the volume can read it at any time.

It is stored beside the commits and not in Redis, so that losing Redis neither repeats a page nor loses a
backoff; see ``docs/decisions/0002-ledger-in-the-repository.md``.
"""

from __future__ import annotations

import contextlib
import time
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, field, replace
from functools import lru_cache
from pathlib import Path
from typing import Any

from ferry.worker.errors import LedgerError, RemoteBusyError
from ferry.worker.files.atomic_json import replace_file, replace_or_overwrite
from ferry.worker.files.locks import FileLock, LockTimeoutError
from ferry.worker.files.places import file_in
from ferry.worker.ledger import events, landings, nudges, steps
from ferry.worker.ledger.entry import Entry, Running, Stall, T, as_json, counted, from_json
from ferry.worker.ledger.events import Event
from ferry.worker.ledger.landings import Landing
from ferry.worker.ledger.steps import Step
from ferry.worker.observe.logs import log

_POLL_S = 0.01
_BOOKKEEPING_S = 30.0  # seconds that a holder may take that has not recorded its step
# A file is a few blocks long, with room to grow: on a full disk the next entry overwrites the last one.
_BLOCK_BYTES = 4096
# While a file is overwritten, a reader may see a mix of old and new content.
_LOOKS = 5
_LOOK_EVERY_S = 0.002

_Version = tuple[int, ...] | None


@dataclass(slots=True)
class Claim:
    """
    The right to push to one remote, held for a block. Only the holder may write the remote's entry.

    Attributes:
        looks_again: Whether the holder itself looks at the branch again after the block, if no exception ends
            it.
    """

    ledger: Ledger
    remote: str
    looks_again: bool = field(default=False, init=False)
    entry: Entry = field(init=False)
    _stall: Stall | None = field(init=False)
    _takes_s: float = field(default=_BOOKKEEPING_S, init=False)

    def __post_init__(self) -> None:
        recorded, self._stall = self.ledger._read(self.remote), self.ledger._stall(self.remote)
        self.entry = recorded.with_stall(self._stall) if self._stall else recorded

    def begin(self, takes_s: float) -> None:
        """
        Record the begin of a step that may take *takes_s* seconds. A watchdog pages if it takes longer.
        """
        self._takes_s = takes_s
        self._note_step()  # if it cannot be stored, only the watchdog's page for a hanging holder is lost

    def count(self, outcome: str) -> dict[str, int]:
        """
        Return the outcomes with one more of *outcome*, for a write together with other changes.
        """
        return counted(self.entry.outcomes, outcome)

    def episode(self, reason: str) -> dict[str, int]:
        """
        Return the episodes with one more that started with *reason*.
        """
        return counted(self.entry.episodes, reason)

    def note(self, **changes: Any) -> None:
        """
        Change fields of the entry in memory. The next ``write`` stores them: each write delays the push.
        """
        self.entry = replace(self.entry, **changes)

    def write(self, **changes: Any) -> Entry:
        """
        Change fields of the entry and store it; returns the new entry.

        Pauses and pages survive a power cut. A full disk must not stop pushes: if the entry cannot be
        written, that is logged, and only this process knows the change.
        """
        before = self.entry
        self.note(**changes)
        self._store(durably=_must_last(before) or _must_last(self.entry))
        return self.entry

    @contextmanager
    def pushing(self) -> Iterator[Callable[[int], object]]:
        """
        Yield what notes the process group of a push before it begins, so that the next holder of the claim
        can end the push if this process dies.

        The step names the group, because a write of the entry would delay the push. The entry names it, too,
        where people would otherwise read that the remote waits.
        """

        def note(group: int) -> None:
            self.note(running=Running.here(group))
            is_stored, entry = self._note_step(), self.entry
            if not is_stored or entry.last_failure is not None or entry.next_attempt_at is not None:
                self.write()

        try:
            yield note
        finally:
            self.note(running=None)
            self._note_step()

    def take_nudge(self) -> bool:
        """
        Return whether a nudge is to be followed, see ``Ledger.nudge``: a new one, or one whose look failed.
        """
        return nudges.take(self.ledger._directory, self.remote)

    def spend_nudge(self) -> None:
        """
        Forget the nudge that was taken: it is followed.
        """
        nudges.spend(self.ledger._directory, self.remote)

    def take_request(self) -> None:
        """
        Forget that an operator asked for a push, see ``Ledger.request``: an attempt begins now.
        """
        nudges.take_request(self.ledger._directory, self.remote)

    def set_paused(
        self, paused_at: float | None, *, by: str = "", why: str = "", until: float | None = None
    ) -> None:
        """
        Pause the pushes, or resume them with None.
        """
        self.write(paused_at=paused_at, paused_by=by, paused_why=why, paused_until=until, pause_paged=False)

    def landed(self, landing: Landing) -> None:
        """
        Add a push that landed to the remote's history; a write error is ignored.
        """
        landings.remember(self.ledger._file(self.remote, "history"), landing)

    def _note_step(self) -> bool:
        return steps.note(self.ledger._lock(self.remote).path, self._takes_s, self.entry.running)

    def _store(self, *, durably: bool) -> None:
        if self.ledger._write(self.remote, self.entry, durably=durably) and self._stall:
            # The stall is part of the entry now.
            self.ledger._forget_stall(self.remote)
            self._stall = None


class Sighting(Claim):
    """
    The right of a watchdog to record a stall while a hung process holds the remote's claim.

    The stall is stored beside the entry. ``Ledger.read`` includes it, and the next holder of the claim writes
    it into the entry.
    """

    __slots__ = ()

    def _store(self, *, durably: bool) -> None:
        entry = self.entry
        if (failure := entry.last_failure) is not None:
            paged = failure.reason in entry.paged
            stall = Stall(failure=failure, since=entry.failing_since, paged=paged)
            self.ledger._write_stall(self.remote, stall)


class Ledger:
    """
    The entries of all remotes of one repository.

    Args:
        directory: Their directory; it exists.
        released: Called after a claim, because tasks that found it held have handed their commits over to the
            holder, with the remote's name and whether an operator asked for a push. Must not raise.
        nudged: Called with a remote's name after a claim on it, if there is a nudge: a task that found the
            claim held has ended without a look. Must not raise.

    Attributes:
        released, nudged: The same.
    """

    def __init__(
        self,
        directory: Path,
        released: Callable[[str, bool], None] = lambda remote, is_asked: None,
        nudged: Callable[[str], None] = lambda remote: None,
    ) -> None:
        self._directory = directory
        self.released = released
        self.nudged = nudged
        # Entries and stalls that could not be written, with the version of the entry's file at that time.
        self._unwritten: dict[str, tuple[Entry, _Version]] = {}
        self._unwritten_stalls: dict[str, tuple[Stall, _Version]] = {}
        # The last entry of each remote that was written here, with the content of its file: to parse it
        # again would take a tenth of this process's time for a push.
        self._written: dict[str, tuple[bytes, Entry]] = {}

    def read(self, remote: str) -> Entry:
        """
        Return the entry of *remote*; an empty one if there is none.

        Raises:
            LedgerError: The entry exists and cannot be read. It may contain a pause.
        """
        entry, stall = self._read(remote), self._stall(remote)
        return entry.with_stall(stall) if stall else entry

    def history(self, remote: str) -> list[Landing]:
        """
        Return the last pushes that landed on *remote*, oldest first.
        """
        return landings.recall(self._file(remote, "history"))

    def happened(self, remote: str, *, pushes: bool = False) -> list[Event]:
        """
        Return the history of *remote* over the last weeks, oldest first.

        Args:
            pushes: Whether to include each push that landed.
        """
        found = events.recall(self._file(remote, "events"))
        if pushes:
            found += [landing.as_event() for landing in self.history(remote)]
        return sorted(found, key=lambda event: event.at)

    def remember(self, remote: str, event: Event) -> None:
        """
        Add *event* to the history of *remote*; a write error is ignored. Needs no claim.
        """
        events.remember(self._file(remote, "events"), event)

    @contextmanager
    def claim(self, remote: str) -> Iterator[Claim | None]:
        """
        Claim *remote* for the block, or yield None at once if another holds it.

        After the block, a push is queued for commits that tasks handed over, unless ``Claim.looks_again``,
        and for a request of an operator that no attempt has taken.

        Raises:
            LedgerError: The entry cannot be read.
        """
        held, looks_again, claim = False, False, None
        try:
            with self._lock(remote).try_hold() as held:
                claim = self._begun(remote) if held else None
                yield claim
            looks_again = claim is not None and claim.looks_again
        finally:
            # If the entry cannot be read, no task can look, and the next sweep queues another.
            # A nudge whose look has failed waits for the sweep, because a look now would fail again.
            if claim is not None and nudges.noted(self._directory, remote).exists():
                self.nudged(remote)
            is_asked = held and nudges.take_request(self._directory, remote)
            if is_asked or (held and not looks_again):
                self.released(remote, is_asked)

    @contextmanager
    def claim_within(self, remote: str, timeout_s: float) -> Iterator[Claim]:
        """
        Claim *remote* for the block, between the running push and the next one.

        Raises:
            RemoteBusyError: The running push has not ended within *timeout_s* seconds.
        """
        busy = RemoteBusyError(f"a push to {remote} has not ended in {timeout_s:g} s; repeat this later")
        deadline = time.monotonic() + timeout_s
        with ExitStack() as queue:
            try:
                queue.enter_context(self._awaiting(remote).hold(timeout_s))
            except LockTimeoutError:
                raise busy from None
            while True:
                with self.claim(remote) as claim:
                    if claim is not None:
                        queue.close()
                        yield claim
                        return
                if time.monotonic() > deadline:
                    raise busy
                time.sleep(_POLL_S)

    def is_awaited(self, remote: str) -> bool:
        """
        Whether a process waits in ``claim_within``: under steady load the claim is free only for moments.
        """
        try:
            return self._awaiting(remote).is_held()
        except OSError:
            return False  # a full disk may have no room for the lock's file, and must not stop pushes

    @contextmanager
    def sighting(self, remote: str) -> Iterator[Sighting | None]:
        """
        Let a watchdog record a stall of *remote* without its claim; yields None if another watchdog does so.
        """
        with FileLock(self._file(remote, "watch")).try_hold() as held:
            yield Sighting(self, remote) if held else None

    def nudge(self, remote: str) -> bool:
        """
        Record a nudge: *remote* may have commits of others. Returns whether it was stored. Needs no claim.

        It stays noted until a holder of the claim has looked: many nudges lead to one look, and a look that
        fails or is killed to another.
        """
        return nudges.note(nudges.noted(self._directory, remote), remote)

    def request(self, remote: str) -> bool:
        """
        Note that an operator asked for a push to *remote* while its claim was held; returns whether that was
        stored. Needs no claim.

        The running attempt may fail for what the operator has just repaired. The next attempt takes the
        request, and if none begins before the claim's end, that queues a push.
        """
        return nudges.note(nudges.requested(self._directory, remote), remote)

    def is_nudged(self, remote: str) -> bool:
        """
        Whether *remote* was nudged and no one has looked since, or does now.
        """
        if nudges.noted(self._directory, remote).exists():
            return True
        return nudges.taken(self._directory, remote).exists() and not self.is_claimed(remote)

    def is_claimed(self, remote: str) -> bool:
        """
        Whether a process holds the claim on *remote* now.
        """
        return self._lock(remote).is_held()

    def step(self, remote: str) -> Step | None:
        """
        Return the last step that a holder of the claim on *remote* recorded; None if it cannot be read.
        """
        return steps.last(self._lock(remote).path)

    def make(self, remote: str) -> None:
        """
        Create the entry's file of *remote* if there is none, so that it can be overwritten on a full disk.
        """
        with contextlib.suppress(FileNotFoundError):
            self._file(remote).stat()  # in Python 3.14 Path.exists() is False if access is denied
            return
        # If the disk is full already, the start goes on without the file.
        with contextlib.suppress(OSError), self.claim(remote) as claim:
            if claim is not None:
                claim.looks_again = True  # the worker's start finds the commits that are pending
                claim.write()

    def _begun(self, remote: str) -> Claim:
        """
        Return a new claim, whose entry names the push that its last holder left if that process died.
        """
        claim, last = Claim(self, remote), self.step(remote)
        if last is not None and last.running is not None:
            claim.write(running=last.running)
        claim.begin(_BOOKKEEPING_S)
        return claim

    def _lock(self, remote: str) -> FileLock:
        return FileLock(self._file(remote, "lock"))

    def _awaiting(self, remote: str) -> FileLock:
        return FileLock(self._file(remote, "next"))

    def _file(self, remote: str, kind: str = "json") -> Path:
        # A remote's name may end like a file of the ledger, such as "origin.history".
        return file_in(self._directory, f"{remote}.{kind}")

    def _read(self, remote: str) -> Entry:
        path = self._file(remote)
        kept = self._unwritten.get(remote)
        if kept and kept[1] == _identity(path):
            return kept[0]
        # A damaged entry was not flushed before a power cut, or is another version's. Pauses and pages are
        # flushed, so none is lost.
        return _load(Entry, path, self._written.get(remote)) or Entry()

    def _stall(self, remote: str) -> Stall | None:
        kept = self._unwritten_stalls.get(remote)
        if kept and kept[1] == _identity(self._file(remote)):
            return kept[0]  # until a holder of the claim goes on
        return _load(Stall, self._file(remote, "stall"))

    def _write(self, remote: str, entry: Entry, *, durably: bool) -> bool:
        path, content = self._file(remote), as_json(entry)
        content = content.ljust(-(-(len(content) + _BLOCK_BYTES) // _BLOCK_BYTES) * _BLOCK_BYTES)
        try:
            replace_or_overwrite(path, content, durably=durably)
        except OSError as exc:
            if entry.last_failure and entry.last_failure.said:  # the text is long, and only for people
                brief = replace(entry, last_failure=replace(entry.last_failure, said=""))
                return self._write(remote, brief, durably=durably)
            self._unwritten[remote] = entry, _identity(path)
            log().warning("ledger.write_failed", remote=remote, error=str(exc))
            return False
        self._unwritten.pop(remote, None)
        self._written[remote] = content, entry
        return True

    def _write_stall(self, remote: str, stall: Stall) -> None:
        try:
            replace_file(self._file(remote, "stall"), as_json(stall), durably=True)
            self._unwritten_stalls.pop(remote, None)
        except OSError as exc:
            self._unwritten_stalls[remote] = stall, _identity(self._file(remote))
            log().warning("ledger.write_failed", remote=remote, error=str(exc))

    def _forget_stall(self, remote: str) -> None:
        self._unwritten_stalls.pop(remote, None)
        with contextlib.suppress(OSError):
            self._file(remote, "stall").unlink()


def _must_last(entry: Entry) -> bool:
    return entry.paused_at is not None or bool(entry.paged)


def _identity(path: Path) -> _Version:
    try:
        found = path.stat()
    except OSError:
        return None
    return found.st_ino, found.st_mtime_ns, found.st_size


def _load(kind: type[T], path: Path, known: tuple[bytes, T] | None = None) -> T | None:
    """
    Read *path*; None if the file is missing or damaged.

    Args:
        known: A content of the file, and what it holds.

    Raises:
        LedgerError: It cannot be read.
    """
    for look in range(_LOOKS):
        try:
            content = path.read_bytes()
        except FileNotFoundError:
            return None
        except OSError as exc:
            raise LedgerError(f"cannot read {path}: {exc.strerror}") from exc
        if known is not None and content == known[0]:
            return known[1]
        if (found := from_json(kind, content)) is not None:
            return found
        if look < _LOOKS - 1:
            time.sleep(_LOOK_EVERY_S)
    _tell_damaged(path, _identity(path))
    return None


@lru_cache(maxsize=64)  # logged once per damaged file, because every status reads it
def _tell_damaged(path: Path, identity: tuple[int, ...] | None) -> None:
    log().warning("ledger.damaged", path=str(path))
