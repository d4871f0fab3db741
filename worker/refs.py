"""
Reading and moving one ref without starting a git process.

A write moves the branch and a push task asks where it stands, each many times a
second; ``git rev-parse`` and ``git update-ref`` would cost both several
milliseconds. The files and the locking are git's own ("files" backend, see
https://git-scm.com/docs/gitrepository-layout), so that git and Ferry may work on
one repository at the same time.
"""

from __future__ import annotations

import ctypes
import os
import re
import time
from functools import lru_cache
from pathlib import Path

_OBJECT_NAME = re.compile(r"[0-9a-f]{40}([0-9a-f]{24})?")
_LOCK_WAIT_S = 1.0  # as long as git waits for a packed-refs lock (core.packedRefsTimeout)


class RefError(Exception):
    """
    A ref could not be read or moved as asked.
    """


class RefMovedError(RefError):
    """
    The ref does not stand where it was expected; somebody else moved it.
    """


class RefLockedError(RefError):
    """
    Somebody else, perhaps long dead, holds git's lock file of the ref.
    """


def read_ref(git_dir: Path, ref: str) -> str | None:
    """
    Return the object name that *ref* holds, or None where there is no such ref.

    Args:
        git_dir: The bare repository.
        ref: A full name such as ``refs/heads/main``; symbolic refs are not followed.

    Raises:
        RefError: If the ref exists and holds no object name.
    """
    try:
        with open(f"{git_dir}/{ref}", "rb") as file:  # Path.read_text takes twice as long
            text = file.read().decode("ascii", "replace").strip()
    except (FileNotFoundError, NotADirectoryError, IsADirectoryError):
        # git packs a ref by writing packed-refs first and removing the loose
        # file then, so that this order of looking never misses it.
        return _read_packed(git_dir, ref)
    if not _OBJECT_NAME.fullmatch(text):
        raise RefError(f"{ref} holds {text[:60]!r} where a commit is expected; look with: git fsck")
    return text


def _read_packed(git_dir: Path, ref: str) -> str | None:
    try:
        text = (git_dir / "packed-refs").read_text("utf-8", "replace")
    except FileNotFoundError:
        return None
    line = re.search(rf"^([0-9a-f]{{40,64}}) {re.escape(ref)}$", text, re.MULTILINE)
    return line[1] if line else None


def flush(directory: Path) -> None:
    """
    Put everything written to *directory*'s file system on disk, before a ref names it.

    One ``syncfs`` costs half a millisecond where an ``fsync`` of each new object
    and its directory costs several; Python has no name for it
    (https://man7.org/linux/man-pages/man2/syncfs.2.html).
    """
    fd = os.open(directory, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
    try:
        _sync_file_system(fd, directory)
    finally:
        os.close(fd)


def _sync_file_system(fd: int, path: Path) -> None:
    if _libc().syncfs(fd) != 0:
        number = ctypes.get_errno()
        raise OSError(number, os.strerror(number), str(path))


@lru_cache(maxsize=1)
def _libc() -> ctypes.CDLL:
    return ctypes.CDLL(None, use_errno=True)


def move_ref(git_dir: Path, ref: str, *, new: str, old: str | None, draft: Path) -> None:
    """
    Move *ref* from *old* to *new*, durably, or not at all.

    On return the ref is on disk, and so is all that was written to its file
    system before: a ref that survives a power cut must not name a commit that
    did not.

    Args:
        old: Where the ref is expected to stand; None where it must not exist.
        draft: A file, on the same file system, that nobody but the holder of the
            caller's lock touches. git's lock file is made as a second name of it;
            so a lock file that a killed predecessor left is known for what it is,
            and cleared, while anybody else's is left alone.

    Raises:
        RefMovedError: The ref stands elsewhere.
        RefLockedError: Somebody else's ``REF.lock`` exists and did not go away within a second.
        OSError: The disk refused. The ref stands where it stood, or, where only the
            last flush failed, at *new* without the certainty that it will stay there.
    """
    path = git_dir / ref
    lock = path.with_name(path.name + ".lock")
    if not path.parent.is_dir():
        path.parent.mkdir(parents=True, exist_ok=True)
    _clear_own_leftover(lock, draft)
    _write_after_all_else(draft, f"{new}\n".encode("ascii"))
    _take_lock(lock, draft)
    try:
        found = read_ref(git_dir, ref)
        if found != old:
            raise RefMovedError(f"{ref} stands at {found}, expected {old}")
        lock.rename(path)
    except BaseException:
        lock.unlink(missing_ok=True)
        raise
    _fsync_directory(path.parent)
    draft.unlink()


def _clear_own_leftover(lock: Path, draft: Path) -> None:
    try:
        left_over = lock.samefile(draft)
    except FileNotFoundError:
        return
    if left_over:
        lock.unlink()


def _write_after_all_else(path: Path, content: bytes) -> None:
    """
    Write a new file, and flush it together with everything that its file system was given before.
    """
    flags = os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC
    try:
        fd = os.open(path, flags, 0o666)
    except FileExistsError:
        path.unlink()  # it may be the ref itself, where a predecessor died after the rename
        fd = os.open(path, flags, 0o666)
    try:
        os.write(fd, content)
        _sync_file_system(fd, path)
    finally:
        os.close(fd)


def _take_lock(lock: Path, draft: Path) -> None:
    deadline = time.monotonic() + _LOCK_WAIT_S
    while True:
        try:
            os.link(draft, lock)
        except FileExistsError:
            if time.monotonic() >= deadline:
                raise RefLockedError(
                    f"{lock} exists: another git works on this ref, or died while it did. "
                    "If no git process runs on this repository, remove that file"
                ) from None
            time.sleep(0.01)
        else:
            return


def _fsync_directory(path: Path) -> None:
    fd = os.open(path, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
    try:
        os.fsync(fd)
    finally:
        os.close(fd)
