"""
Locks that the kernel lets go when their holder dies.

A lock in Redis outlives its holder, or expires under it. These are open file
description locks on files in the repository: whoever can touch the repository
can take them, in any thread, process or container (and host, where the volume
is shared by NFS version 4), and ``kill -9`` frees them. See
https://man7.org/linux/man-pages/man2/fcntl_locking.2.html.
"""

from __future__ import annotations

import contextlib
import fcntl
import os
import random
import struct
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from worker.sharing import inherit

# struct flock on Linux with 64-bit offsets: type, whence, start, length, pid.
_FLOCK = struct.Struct("@hhqqi4x")
_SLEEP_S = (0.0001, 0.001)


class LockTimeoutError(TimeoutError):
    """
    Somebody held the lock for all the time that we would wait.
    """


class FileLock:
    """
    An exclusive lock on one file, between threads as well as processes.

    Every acquisition opens the file anew, so one ``FileLock`` may be shared.

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
        fd = self._open()
        try:
            yield _try_lock(fd)
        finally:
            os.close(fd)

    @contextmanager
    def hold(self, timeout_s: float) -> Iterator[None]:
        """
        Hold the lock for the block, waiting at most *timeout_s* seconds for it.

        Raises:
            LockTimeoutError: When the time is up.
        """
        begun = time.monotonic()
        fd = self._open()
        try:
            while not _try_lock(fd):
                waited = time.monotonic() - begun
                if waited >= timeout_s:
                    raise LockTimeoutError(f"{self.path} was held by another for {timeout_s:g} s")
                # The kernel's own wait has no timeout. Random steps keep it fair; they
                # grow with the wait, so that it is a little longer at most than it must be.
                least, most = _SLEEP_S
                time.sleep(random.uniform(least, min(most, max(2 * least, waited / 2))))  # noqa: S311 - not for secrets
            yield
        finally:
            os.close(fd)

    def is_held(self) -> bool:
        """
        Whether anybody holds the lock now. Asking never gets in a taker's way.
        """
        fd = self._open()
        try:
            answer = fcntl.fcntl(fd, fcntl.F_OFD_GETLK, _whole_file(fcntl.F_WRLCK))
            return bool(_FLOCK.unpack(answer)[0] != fcntl.F_UNLCK)
        finally:
            os.close(fd)

    def _open(self) -> int:
        flags = os.O_RDWR | os.O_CLOEXEC
        with contextlib.suppress(FileNotFoundError):
            return os.open(self.path, flags)
        fd = os.open(self.path, flags | os.O_CREAT, 0o660)
        inherit(fd, self.path.parent)
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
