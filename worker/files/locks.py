"""
Locks that the kernel releases when their holder dies.

A lock in Redis outlives a dead holder, or expires while its holder lives. These are open file description
locks on files in the repository: every thread, process and container that can write there can take them (and
every host, if the volume is shared by NFS version 4), and ``kill -9`` releases them. See
https://man7.org/linux/man-pages/man2/fcntl_locking.2.html.

Such a lock belongs to every copy of its descriptor, and a fork copies descriptors: a child between fork and
exec would keep a lock whose file its parent has closed. So a holder unlocks before it closes, which releases
the lock for all copies, and a forked child first closes its copies.
"""

from __future__ import annotations

import contextlib
import fcntl
import os
import random
import struct
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import ClassVar

from ferry.worker.files.sharing import inherit

# struct flock on Linux with 64-bit offsets: type, whence, start, length, pid.
_FLOCK = struct.Struct("@hhqqi4x")
_SLEEP_S = (0.0001, 0.001)


class LockTimeoutError(TimeoutError):
    """
    Another holder kept the lock for the whole timeout.
    """


class FileLock:
    """
    An exclusive lock on one file, between threads as well as processes.

    Every acquisition opens the file again, so threads may share one ``FileLock``.

    Args:
        path: The lock file; created if missing, never removed.
    """

    def __init__(self, path: Path) -> None:
        self.path = path

    @contextmanager
    def try_hold(self) -> Iterator[bool]:
        """
        Hold the lock for the block if it is free; yields whether it was.
        """
        descriptor = _Descriptor(self.path)
        try:
            yield _try_lock(descriptor.number)
        finally:
            descriptor.close()

    @contextmanager
    def hold(self, timeout_s: float) -> Iterator[None]:
        """
        Hold the lock for the block, waiting at most *timeout_s* seconds for it.

        Raises:
            LockTimeoutError: Another holder kept it for *timeout_s* seconds.
        """
        descriptor = _Descriptor(self.path)
        try:
            yield from self._hold(descriptor, timeout_s)
        finally:
            descriptor.close()  # again, in case an exception interrupted the first call

    def _hold(self, descriptor: _Descriptor, timeout_s: float) -> Iterator[None]:
        begun = time.monotonic()
        try:
            while not _try_lock(descriptor.number):
                waited = time.monotonic() - begun
                if waited >= timeout_s:
                    raise LockTimeoutError(f"{self.path} was held by another for {timeout_s:g} s")
                # The kernel's own wait has no timeout. Random pauses keep it fair; they grow with the time
                # waited, so that the wait is only a little longer than necessary.
                least, most = _SLEEP_S
                time.sleep(random.uniform(least, min(most, max(2 * least, waited / 2))))  # noqa: S311 - not for secrets
            yield
        finally:
            descriptor.close()

    def is_held(self) -> bool:
        """
        Whether the lock is held now. The check never delays another taker.
        """
        fd = _open(self.path)
        try:
            answer = fcntl.fcntl(fd, fcntl.F_OFD_GETLK, _whole_file(fcntl.F_WRLCK))
            return bool(_FLOCK.unpack(answer)[0] != fcntl.F_UNLCK)
        finally:
            os.close(fd)


class _Descriptor:
    """
    An open lock file of this process; a forked child closes those of its parent.
    """

    _opened: ClassVar[set[_Descriptor]] = set()
    # Held so that a fork never happens while a descriptor is open but not listed, or listed but closed.
    _guard: ClassVar[threading.Lock] = threading.Lock()

    def __init__(self, path: Path) -> None:
        with self._guard:
            self.number = _open(path)
            self._opened.add(self)

    def close(self) -> None:
        """
        Unlock the file and close it, unless this process is a fork of the one that opened it.
        """
        with self._guard:
            if self in self._opened:
                self._unlock()

    def _unlock(self) -> None:
        try:
            fcntl.fcntl(self.number, fcntl.F_OFD_SETLK, _whole_file(fcntl.F_UNLCK))
        finally:
            self._opened.remove(self)
            os.close(self.number)

    @classmethod
    def _forget_parents(cls) -> None:
        # Closed without unlocking: the lock belongs to the parent.
        for descriptor in cls._opened:
            os.close(descriptor.number)
        cls._opened.clear()
        cls._guard.release()


os.register_at_fork(
    before=_Descriptor._guard.acquire,
    after_in_parent=_Descriptor._guard.release,
    after_in_child=_Descriptor._forget_parents,
)


def _open(path: Path) -> int:
    flags = os.O_RDWR | os.O_CLOEXEC
    with contextlib.suppress(FileNotFoundError):
        return os.open(path, flags)
    fd = os.open(path, flags | os.O_CREAT, 0o660)
    inherit(fd, path.parent)
    return fd


def _whole_file(kind: int) -> bytes:
    return _FLOCK.pack(kind, os.SEEK_SET, 0, 0, 0)


def _try_lock(fd: int) -> bool:
    try:
        fcntl.fcntl(fd, fcntl.F_OFD_SETLK, _whole_file(fcntl.F_WRLCK))
    except (BlockingIOError, PermissionError):
        # POSIX allows EAGAIN or EACCES for a lock that is held.
        return False
    return True
