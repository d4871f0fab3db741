"""
The free space on the disk of a directory.
"""

from __future__ import annotations

import errno
import os
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

NO_ROOM = frozenset({errno.ENOSPC, errno.EDQUOT})  # errno values that mean a full disk
_FULL_BYTES = 1 << 20  # with less free, the next commit may not fit
_FULL_FILES = 16
_LOW_SHARE, _LOW_BYTES = 0.05, 1 << 30


@dataclass(frozen=True, slots=True, kw_only=True)
class Room:
    """
    The free space on one disk, for users without privileges.

    Attributes:
        free_bytes: How many bytes can still be written.
        total_bytes: The size of the disk.
        files: How many files can still be created; None if the file system has no such limit.
    """

    free_bytes: int
    total_bytes: int
    files: int | None = None

    @property
    def state(self) -> Literal["ok", "low", "full"]:
        """
        ``full`` if the next commit may not fit; ``low`` with less than 5 % and less than 1 GiB free.
        """
        if self.free_bytes < _FULL_BYTES or (self.files is not None and self.files < _FULL_FILES):
            return "full"
        return "low" if self.free_bytes < min(_LOW_SHARE * self.total_bytes, _LOW_BYTES) else "ok"

    @property
    def told(self) -> str:
        """
        The free space in words, such as ``12 MiB of 1024 MiB free``.
        """
        free = f"{self.free_bytes >> 20} MiB of {self.total_bytes >> 20} MiB free"
        return (
            free if self.files is None or self.files >= _FULL_FILES else f"{free}, and no file can be created"
        )


def room_at(path: Path) -> Room:
    """
    Return the free space on the disk of *path*.

    Raises:
        OSError: There is no such path.
    """
    found = os.statvfs(path)
    return Room(
        free_bytes=found.f_bavail * found.f_frsize,
        total_bytes=found.f_blocks * found.f_frsize,
        files=found.f_favail if found.f_files else None,
    )
