"""
Locks that the kernel releases when their holder dies.

A lock in Redis outlives its holder, or expires under it. These are open file
description locks on files in the repository: every thread, process and container
that can write there can take them (and every host, where the volume is shared by
NFS version 4), and ``kill -9`` releases them. See
https://man7.org/linux/man-pages/man2/fcntl_locking.2.html.

Such a lock belongs to every copy of its descriptor, and a fork makes copies: a child
between fork and exec would keep a lock that its parent has closed. So a holder unlocks
before it closes, which frees the lock for all copies at once, and a forked child closes
the copies that it got before it does anything else.
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
        path: The lock file; made when missing, never removed.
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
            LockTimeoutError: When the time is up.
        """
        descriptor = _Descriptor(self.path)
        try:
            yield from self._hold(descriptor, timeout_s)
        finally:
            descriptor.close()  # again, for a thread that was ended while it closed

    def _hold(self, descriptor: _Descriptor, timeout_s: float) -> Iterator[None]:
        begun = time.monotonic()
        try:
            while not _try_lock(descriptor.number):
                waited = time.monotonic() - begun
                if waited >= timeout_s:
                    raise LockTimeoutError(f"{self.path} was held by another for {timeout_s:g} s")
                # The kernel's own wait has no timeout. Random steps keep it fair; they
                # grow with the wait, so that it is a little longer at most than it must be.
                least, most = _SLEEP_S
                time.sleep(random.uniform(least, min(most, max(2 * least, waited / 2))))  # noqa: S311 - not for secrets
            yield
        finally:
            descriptor.close()

    def is_held(self) -> bool:
        """
        Whether the lock is held now. Asking never delays a taker.
        """
        fd = _open(self.path)
        try:
            answer = fcntl.fcntl(fd, fcntl.F_OFD_GETLK, _whole_file(fcntl.F_WRLCK))
            return bool(_FLOCK.unpack(answer)[0] != fcntl.F_UNLCK)
        finally:
            os.close(fd)


class _Descriptor:
    """
    An open lock file of this process; a forked child has none of its parent's.
    """

    _opened: ClassVar[set[_Descriptor]] = set()
    # No fork meets a descriptor that is open and not known, or known and closed.
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
        # Closed, not unlocked: the lock is the parent's.
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
        # POSIX lets a held lock be reported as EAGAIN or as EACCES.
        return False
    return True
