"""
Sums that each API process counts for itself, and that any of them can add up.

Each process keeps its rows in memory, and a copy in its own file, in a directory that the processes of one
API share. The file is written by ``pwrite``, not mapped, so that a full disk is an error and not a signal
that ends the process. A row that cannot be written stays in memory, and goes to the file with its next
change.

Locks show which files are in use, in every pid namespace: a process holds a lock on its file, and a shared
lock on the directory, as long as it lives. A process takes over the file of one that has ended, with its
sums. So a sum never decreases, and there are at most as many files as there were processes at a time.
"""

from __future__ import annotations

import contextlib
import fcntl
import json
import os
import shutil
import stat
import struct
import threading
import time
from collections.abc import Iterator, Sequence
from pathlib import Path

from ferry.worker.observe.logs import log

Key = tuple[str, ...]  # a metric's name, and the values of its labels

_HEADER = struct.Struct("=II")  # length of the row's key, and how many doubles follow it
_ALIGNED = 8  # so that a reader never sees half a double
_TRY_AGAIN_S = 1.0
_FLAGS = os.O_RDWR | os.O_CLOEXEC | os.O_NOFOLLOW


class _Row:
    def __init__(self, key: Key, size: int) -> None:
        self.values = [0.0] * size
        self.offset: int | None = None  # in the file; None: not there yet
        name = json.dumps(key).encode()
        name += b" " * (-len(name) % _ALIGNED)
        self.head = _HEADER.pack(len(name), size) + name

    def packed(self) -> bytes:
        return struct.pack(f"={len(self.values)}d", *self.values)


class Tally:
    """
    Rows of sums. Counting never fails; a file that cannot be written is logged once.

    Args:
        directory: Directory of the files of the processes that count together; None: no files.
    """

    def __init__(self, directory: Path | None) -> None:
        self._directory = directory
        self._mutex = threading.Lock()
        self._rows: dict[Key, _Row] = {}
        self._directory_fd: int | None = None
        self._fd: int | None = None
        self._end = 0  # of the file
        self._open_at = 0.0  # monotonic seconds; no try before that
        self._is_told = False
        os.register_at_fork(after_in_child=self._reset)

    def add(self, key: Key, amounts: Sequence[float]) -> None:
        """
        Add *amounts*, one to each sum of the row *key*.
        """
        with self._mutex:
            row = self._rows.get(key)
            if row is None:
                row = self._rows[key] = _Row(key, len(amounts))
            row.values = [value + amount for value, amount in zip(row.values, amounts, strict=True)]
            try:
                if self._is_open() or self._open():
                    self._write(row)
            except OSError as exc:
                lost = exc
            else:
                return
        self._report(lost)

    def totals(self) -> dict[Key, list[float]]:
        """
        Return the sums of all the processes.
        """
        with self._mutex:
            found = {key: list(row.values) for key, row in self._rows.items()}
            mine = os.fstat(self._fd).st_ino if self._fd is not None else None
        for path in self._files():
            with contextlib.suppress(OSError):
                fd = os.open(path, os.O_RDONLY | os.O_CLOEXEC | os.O_NOFOLLOW)
                with open(fd, "rb") as file:
                    content = b"" if os.fstat(fd).st_ino == mine else file.read()
                for key, values, _ in _read(content):
                    before = found.get(key, [0.0] * len(values))
                    if len(before) == len(values):
                        found[key] = [one + other for one, other in zip(before, values, strict=True)]
        return found

    def _files(self) -> list[Path]:
        try:
            return sorted(self._directory.glob("*.sums")) if self._directory else []
        except OSError:
            return []

    def _is_open(self) -> bool:
        return self._fd is not None and os.fstat(self._fd).st_nlink > 0  # else it was removed

    def _open(self) -> bool:
        """
        Take a file and write every row to it; returns whether this was tried.
        """
        if self._directory is None or time.monotonic() < self._open_at:
            return False
        self._open_at = time.monotonic() + _TRY_AGAIN_S
        self._close()
        self._directory_fd = _hold(self._directory)
        self._fd = self._take_file()
        self._load_rows()
        for row in self._rows.values():
            self._write(row)
        return True

    def _take_file(self) -> int:
        """
        Return the file of a process that has ended, or a new one, locked.
        """
        for path in self._files():
            with contextlib.suppress(OSError):
                return _locked(os.open(path, _FLAGS))
        number = 1
        while True:
            try:
                return _locked(
                    os.open(f"{self._directory}/{number}.sums", _FLAGS | os.O_CREAT | os.O_EXCL, 0o600)
                )
            except FileExistsError:
                number += 1

    def _load_rows(self) -> None:
        """
        Add the sums in the file to the rows, and note each row's offset.
        """
        assert self._fd is not None  # noqa: S101 - only after _take_file
        self._end = 0
        for row in self._rows.values():
            row.offset = None
        for key, values, offset in _read(os.pread(self._fd, os.fstat(self._fd).st_size, 0)):
            row = self._rows.setdefault(key, _Row(key, len(values)))
            if len(row.values) == len(values):  # another release may have other sums
                row.values = [one + other for one, other in zip(row.values, values, strict=True)]
                row.offset = offset
            self._end = offset + 8 * len(values)
        os.ftruncate(self._fd, self._end)  # cuts off an incomplete row

    def _write(self, row: _Row) -> None:
        assert self._fd is not None  # noqa: S101 - only after _open
        if row.offset is not None:
            os.pwrite(self._fd, row.packed(), row.offset)
            return
        whole = row.head + row.packed()
        if os.pwrite(self._fd, whole, self._end) < len(whole):
            raise OSError("only a part of a row was written")
        row.offset, self._end = self._end + len(row.head), self._end + len(whole)

    def _close(self) -> None:
        for fd in (self._fd, self._directory_fd):
            if fd is not None:
                os.close(fd)
        self._fd = self._directory_fd = None

    def _reset(self) -> None:
        """
        Count from zero in a forked process: the sums so far are its parent's.
        """
        self._mutex = threading.Lock()
        self._rows, self._open_at = {}, 0.0
        with contextlib.suppress(OSError):
            self._close()

    def _report(self, error: OSError) -> None:
        if not self._is_told:
            self._is_told = True
            log().warning("metrics.lost", path=str(self._directory), error=str(error))


def remove_left_over(directories: Iterator[Path]) -> None:
    """
    Remove those of *directories* that no process holds.
    """
    for directory in directories:
        with contextlib.suppress(OSError):
            fd = os.open(directory, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC | os.O_NOFOLLOW)
            try:
                fcntl.flock(fd, fcntl.LOCK_EX | fcntl.LOCK_NB)
                shutil.rmtree(directory, ignore_errors=True)
            finally:
                os.close(fd)


def _hold(directory: Path) -> int:
    """
    Make *directory*, and keep others from removing it while the returned file descriptor is open.
    """
    directory.mkdir(mode=0o700, exist_ok=True)
    fd = os.open(directory, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC | os.O_NOFOLLOW)
    try:
        fcntl.flock(fd, fcntl.LOCK_SH | fcntl.LOCK_NB)
        found = os.fstat(fd)
        if found.st_uid != os.getuid() or stat.S_IMODE(found.st_mode) & 0o022:
            raise PermissionError(f"{directory} belongs to another user, or others can write to it")
        if not os.path.samestat(found, directory.stat()):
            raise FileNotFoundError(f"{directory} was removed meanwhile")
    except BaseException:
        os.close(fd)
        raise
    return fd


def _locked(fd: int) -> int:
    """
    Return *fd*, locked, where no process holds that file and it has not been removed.
    """
    try:
        fcntl.flock(fd, fcntl.LOCK_EX | fcntl.LOCK_NB)
        if not os.fstat(fd).st_nlink:
            raise FileNotFoundError
    except BaseException:
        os.close(fd)
        raise
    return fd


def _read(content: bytes) -> Iterator[tuple[Key, list[float], int]]:
    """
    Yield key, sums and the sums' offset of each complete row of a file.
    """
    position = 0
    while position + _HEADER.size <= len(content):
        length, size = _HEADER.unpack_from(content, position)
        offset = position + _HEADER.size + length
        position = offset + 8 * size
        if position > len(content):
            return
        try:
            key = tuple(json.loads(content[offset - length : offset]))
        except (ValueError, TypeError):
            return
        yield key, list(struct.unpack_from(f"={size}d", content, offset)), offset
