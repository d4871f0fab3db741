"""
Putting what was written on the disk, so that a power cut keeps it.
"""

from __future__ import annotations

import ctypes
import os
from functools import lru_cache
from pathlib import Path


def flush(directory: Path) -> None:
    """
    Put everything written to *directory*'s file system on disk.

    One ``syncfs`` costs half a millisecond where an ``fsync`` of each new object
    and its directory costs several; Python has no name for it
    (https://man7.org/linux/man-pages/man2/syncfs.2.html).
    """
    fd = os.open(directory, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
    try:
        flush_file_system(fd, directory)
    finally:
        os.close(fd)


def flush_file_system(fd: int, path: Path) -> None:
    """
    Put everything written to the file system of an open file on disk.

    Args:
        path: The file's name, for the error.
    """
    if _libc().syncfs(fd) != 0:
        number = ctypes.get_errno()
        raise OSError(number, os.strerror(number), str(path))


def flush_directory(path: Path) -> None:
    """
    Put the names in the directory *path* on disk: without it, a power cut may undo a rename.
    """
    fd = os.open(path, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
    try:
        os.fsync(fd)
    finally:
        os.close(fd)


@lru_cache(maxsize=1)
def _libc() -> ctypes.CDLL:
    return ctypes.CDLL(None, use_errno=True)
