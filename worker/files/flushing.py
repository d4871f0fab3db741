"""
Flushing files to the disk, so that they survive a power cut.
"""

from __future__ import annotations

import ctypes
import os
from functools import lru_cache
from pathlib import Path


def flush(directory: Path) -> None:
    """
    Flush everything written to *directory*'s file system.

    One ``syncfs`` takes half a millisecond, and an ``fsync`` of each new object and its directory takes
    several; Python does not offer the system call (https://man7.org/linux/man-pages/man2/syncfs.2.html).
    """
    fd = os.open(directory, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
    try:
        flush_file_system(fd, directory)
    finally:
        os.close(fd)


def flush_file_system(fd: int, path: Path) -> None:
    """
    Flush everything written to the file system of an open file.

    Args:
        path: The file's name, for the error.
    """
    if _libc().syncfs(fd) != 0:
        number = ctypes.get_errno()
        raise OSError(number, os.strerror(number), str(path))


def flush_directory(path: Path) -> None:
    """
    Flush the directory *path*: without it, a power cut may undo a rename.
    """
    fd = os.open(path, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
    try:
        os.fsync(fd)
    finally:
        os.close(fd)


@lru_cache(maxsize=1)
def _libc() -> ctypes.CDLL:
    return ctypes.CDLL(None, use_errno=True)
