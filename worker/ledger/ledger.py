"""
What happened to each remote: one small file per remote, in the repository.

git alone says what is pending. The ledger remembers what git cannot know: the
attempts made, the retry that is due, the last error, the episode that was
paged. It is written by the holder of the remote's claim and by no other
process, replaced whole, and readable at any time by every process on the volume.

It lives beside the commits and not in Redis, so that an emptied Redis neither
pages twice nor forgets a backoff; see ``docs/decisions/0002-ledger-in-the-repository.md``.
"""

from __future__ import annotations

import contextlib
import os
import socket
import time
import uuid
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, field, replace
from functools import lru_cache
from pathlib import Path
from typing import Any

from ferry.worker.errors import LedgerError, RemoteBusyError
from ferry.worker.files.atomic_json import replace_file, replace_or_overwrite
from ferry.worker.files.locks import FileLock, LockTimeoutError
from ferry.worker.ledger import events, landings, nudges
from ferry.worker.ledger.entry import Entry, Stall, T, as_json, counted, from_json
from ferry.worker.ledger.events import Event
from ferry.worker.ledger.landings import Landing
from ferry.worker.observe.logs import log

_POLL_S = 0.01
_BOOKKEEPING_S = 30.0  # what a holder may take that has not said what it does
# A file is a few blocks long, with room to grow: on a full disk the next entry is written over the last one.
_BLOCK_BYTES = 4096
# A file that is written over is torn for a moment, to a reader.
_LOOKS = 5
_LOOK_EVERY_S = 0.002
_STEP_BYTES = 256


@dataclass(frozen=True, slots=True, kw_only=True)
class Step:
    """
    What the holder of a claim said last of what it does.

    Attributes:
        name: Different for each step of each holder.
        takes_s: Seconds that the step may take.
        holder: The process, for people.
    """

    name: str
    takes_s: float
    holder: str


@dataclass(slots=True)
class Claim:
    """
    The right to push to one remote, held for a block; the only way to write its ledger.

    Attributes:
        looks_again: Whether the holder looks at the branch itself after a block that no error ends.
    """

    ledger: Ledger
    remote: str
    looks_again: bool = field(default=False, init=False)
    entry: Entry = field(init=False)
    _stall: Stall | None = field(init=False)

    def __post_init__(self) -> None:
        recorded, self._stall = self.ledger._read(self.remote), self.ledger._stall(self.remote)
        self.entry = recorded.with_stall(self._stall) if self._stall else recorded
        self.begin(_BOOKKEEPING_S)

    def begin(self, takes_s: float) -> None:
        """
        Record that a step begins that may take *takes_s* seconds: a watchdog pages when it takes longer.
        """
        self.ledger._note_step(self.remote, takes_s)

    def count(self, outcome: str) -> dict[str, int]:
        """
        Return the outcomes with one more of *outcome*, to be written with what else it changes.
        """
        return counted(self.entry.outcomes, outcome)

    def episode(self, reason: str) -> dict[str, int]:
        """
        Return the episodes with one more that begins with *reason*.
        """
        return counted(self.entry.episodes, reason)

    def note(self, **changes: Any) -> None:
        """
        Change fields of the entry, on disk with the next ``write``; each of those costs the push a moment.
        """
        self.entry = replace(self.entry, **changes)

    def write(self, **changes: Any) -> Entry:
        """
        Change fields of the entry, on disk at once; returns the new entry.

        A pause and a page are there after a power cut too. A full disk must not keep
        commits from leaving it: what cannot be written is logged, and known to this process alone.
        """
        before = self.entry
        self.note(**changes)
        self._store(durably=_must_last(before) or _must_last(self.entry))
        return self.entry

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

    def set_paused(
        self, paused_at: float | None, *, by: str = "", why: str = "", until: float | None = None
    ) -> None:
        """
        Stop the pushes, or with None let them be made again.
        """
        self.write(paused_at=paused_at, paused_by=by, paused_why=why, paused_until=until, pause_paged=False)

    def landed(self, landing: Landing) -> None:
        """
        Add a push that landed to the remote's history, if that can be written.
        """
        landings.remember(self.ledger._history(self.remote), landing)

    def _store(self, *, durably: bool) -> None:
        if self.ledger._write(self.remote, self.entry, durably=durably) and self._stall:
            # It is part of the entry now.
            self.ledger._forget_stall(self.remote)
            self._stall = None


class Sighting(Claim):
    """
    What a watchdog may write of a remote although another process holds its claim, and hangs.

    It is kept beside the entry, part of what ``Ledger.read`` returns, and written into the entry
    by the next holder of the claim.
    """

    __slots__ = ()

    def begin(self, takes_s: float) -> None:
        """
        Say nothing: the claim is another's.
        """

    def _store(self, *, durably: bool) -> None:
        failure = self.entry.last_failure
        if failure is not None:
            stall = Stall(failure=failure, paged=failure.reason in self.entry.paged)
            self.ledger._write_stall(self.remote, stall)


class Ledger:
    """
    The entries of all remotes of one repository.

    Args:
        directory: Where they live; it exists.
        released: Called with a remote's name after each claim on it: a task that met the claim has handed
            its commit over to the holder. Must not raise.
        nudged: Called with a remote's name after a claim on it where the remote is nudged: a task that met
            the claim has left its look to another. Must not raise.

    Attributes:
        released, nudged: The same.
    """

    def __init__(
        self,
        directory: Path,
        released: Callable[[str], None] = lambda remote: None,
        nudged: Callable[[str], None] = lambda remote: None,
    ) -> None:
        self._directory = directory
        self.released = released
        self.nudged = nudged
        # What could not be written, with the file that was there then.
        self._unwritten: dict[str, tuple[Entry, tuple[int, ...] | None]] = {}

    def read(self, remote: str) -> Entry:
        """
        Return what is known of *remote*; an empty entry where nothing is.

        Raises:
            LedgerError: There is something, and it cannot be read: a pause may stand there.
        """
        entry, stall = self._read(remote), self._stall(remote)
        return entry.with_stall(stall) if stall else entry

    def history(self, remote: str) -> list[Landing]:
        """
        Return the last pushes that landed on *remote*, oldest first.
        """
        return landings.recall(self._history(remote))

    def happened(self, remote: str, *, pushes: bool = False) -> list[Event]:
        """
        Return what happened at *remote* in the last weeks, oldest first.

        Args:
            pushes: Whether to name each push that landed, too.
        """
        found = events.recall(self._events(remote))
        if pushes:
            found += [landing.as_event() for landing in self.history(remote)]
        return sorted(found, key=lambda event: event.at)

    def remember(self, remote: str, event: Event) -> None:
        """
        Add *event* to what happened at *remote*, if that can be written. Needs no claim.
        """
        events.remember(self._events(remote), event)

    @contextmanager
    def claim(self, remote: str) -> Iterator[Claim | None]:
        """
        Claim *remote* for the block, or yield None at once if another holds it.

        After the block, what tasks have handed over to the holder is queued, unless ``Claim.looks_again``.

        Raises:
            LedgerError: What is known of the remote cannot be read.
        """
        held, looks_again, claim = False, False, None
        try:
            with self._lock(remote).try_hold() as held:
                claim = Claim(self, remote) if held else None
                yield claim
            looks_again = claim is not None and claim.looks_again
        finally:
            # Without an entry that can be read no task can look, and the next sweep asks again.
            # One whose look has failed would fail again at once: that waits for the sweep.
            if claim is not None and nudges.noted(self._directory, remote).exists():
                self.nudged(remote)
            if held and not looks_again:
                self.released(remote)

    @contextmanager
    def claim_within(self, remote: str, timeout_s: float) -> Iterator[Claim]:
        """
        Claim *remote* for the block, once the push that runs has ended and before the next one begins.

        Raises:
            RemoteBusyError: It has not ended within *timeout_s* seconds.
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
        Whether a process waits in ``claim_within``: under steady load the claim is free for moments only.
        """
        try:
            return self._awaiting(remote).is_held()
        except OSError:
            return (
                False  # a disk that is full has no room for the lock's file, and must not keep commits on it
            )

    @contextmanager
    def sighting(self, remote: str) -> Iterator[Sighting | None]:
        """
        Write of *remote* for the block without its claim, or yield None if another watchdog does so.
        """
        with FileLock(self._directory / f"{remote}.watch").try_hold() as held:
            yield Sighting(self, remote) if held else None

    def nudge(self, remote: str) -> bool:
        """
        Note that *remote* may hold commits of others; returns whether that could be noted. Needs no claim.

        It stays noted until a holder of the claim has looked: many nudges lead to one look, and a look that
        fails or is killed to another.
        """
        try:
            nudges.noted(self._directory, remote).touch()
        except OSError as exc:
            log().warning("ledger.write_failed", remote=remote, error=str(exc))
            return False
        return True

    def is_nudged(self, remote: str) -> bool:
        """
        Whether *remote* was nudged and no one has looked since, or does now.
        """
        if nudges.noted(self._directory, remote).exists():
            return True
        return nudges.taken(self._directory, remote).exists() and not self.is_claimed(remote)

    def is_claimed(self, remote: str) -> bool:
        """
        Whether a process holds the claim on *remote* at this moment.
        """
        return self._lock(remote).is_held()

    def step(self, remote: str) -> Step | None:
        """
        Return what the last holder of the claim on *remote* said of what it does, if that can be read.
        """
        try:
            name, takes_s, holder = self._lock(remote).path.read_text("ascii").split(maxsplit=2)
            return Step(name=name, takes_s=float(takes_s), holder=holder.strip())
        except (OSError, ValueError):
            return None

    def make(self, remote: str) -> None:
        """
        Make the file of *remote* where there is none: one to write over once the disk is full.
        """
        with contextlib.suppress(FileNotFoundError):
            self._path(remote).stat()  # Path.exists() of Python 3.14 calls missing what may not be seen
            return
        # On a disk that is full already there is none, and the start goes on without it.
        with contextlib.suppress(OSError), self.claim(remote) as claim:
            if claim is not None:
                claim.looks_again = True  # what waits at a start, the worker's start finds
                claim.write()

    def _lock(self, remote: str) -> FileLock:
        return FileLock(self._directory / f"{remote}.lock")

    def _path(self, remote: str) -> Path:
        return self._directory / f"{remote}.json"

    def _history(self, remote: str) -> Path:
        # No ending of the ledger's own files: a remote may be called "origin.history".
        return self._directory / f"{remote}.history"

    def _events(self, remote: str) -> Path:
        return self._directory / f"{remote}.events"

    def _stall_path(self, remote: str) -> Path:
        return self._directory / f"{remote}.stall"

    def _awaiting(self, remote: str) -> FileLock:
        return FileLock(self._directory / f"{remote}.next")

    def _read(self, remote: str) -> Entry:
        path = self._path(remote)
        kept = self._unwritten.get(remote)
        if kept and kept[1] == _identity(path):
            return kept[0]
        # What is damaged is an entry that was not flushed before a power cut, or another version's:
        # neither a pause nor a page was lost with it.
        return _load(Entry, path) or Entry()

    def _stall(self, remote: str) -> Stall | None:
        return _load(Stall, self._stall_path(remote))

    def _write(self, remote: str, entry: Entry, *, durably: bool) -> bool:
        path, content = self._path(remote), as_json(entry)
        length = -(-(len(content) + _BLOCK_BYTES) // _BLOCK_BYTES) * _BLOCK_BYTES
        try:
            replace_or_overwrite(path, content.ljust(length), durably=durably)
        except OSError as exc:
            if entry.last_failure and entry.last_failure.said:  # that is long, and for people alone
                brief = replace(entry, last_failure=replace(entry.last_failure, said=""))
                return self._write(remote, brief, durably=durably)
            self._unwritten[remote] = entry, _identity(path)
            log().warning("ledger.write_failed", remote=remote, error=str(exc))
            return False
        self._unwritten.pop(remote, None)
        return True

    def _write_stall(self, remote: str, stall: Stall) -> None:
        try:
            replace_file(self._stall_path(remote), as_json(stall), durably=True)
        except OSError as exc:
            log().warning("ledger.write_failed", remote=remote, error=str(exc))

    def _forget_stall(self, remote: str) -> None:
        with contextlib.suppress(OSError):
            self._stall_path(remote).unlink()

    def _note_step(self, remote: str, takes_s: float) -> None:
        text = f"{uuid.uuid4().hex} {takes_s:.1f} process {os.getpid()} on {socket.gethostname()}\n"
        # Without it a watchdog does not know that this holder hangs, and nothing else.
        with contextlib.suppress(OSError), self._lock(remote).path.open("r+b", buffering=0) as file:
            file.write(text.encode("ascii", "replace").ljust(_STEP_BYTES))


def _must_last(entry: Entry) -> bool:
    return entry.paused_at is not None or bool(entry.paged)


def _identity(path: Path) -> tuple[int, ...] | None:
    try:
        found = path.stat()
    except OSError:
        return None
    return found.st_ino, found.st_mtime_ns, found.st_size


def _load(kind: type[T], path: Path) -> T | None:
    """
    Read *path*; None where there is no such file, or it is damaged.

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
        if (found := from_json(kind, content)) is not None:
            return found
        if look < _LOOKS - 1:
            time.sleep(_LOOK_EVERY_S)
    _tell_damaged(path, _identity(path))
    return None


@lru_cache(maxsize=64)  # once for each damage: every look at the pushes reads the file
def _tell_damaged(path: Path, identity: tuple[int, ...] | None) -> None:
    log().warning("ledger.damaged", path=str(path))
