"""
Reading and moving one ref without starting a git process.

A write moves the branch and a push task asks where it stands, each many times a
second; ``git rev-parse`` and ``git update-ref`` would cost both several
milliseconds. The files and the locking are git's own ("files" backend, see
https://git-scm.com/docs/gitrepository-layout), so that git and Ferry may work on
one repository at the same time.
"""

from __future__ import annotations

import contextlib
import errno
import os
import re
from pathlib import Path

from ferry.worker.files.flushing import flush, flush_directory, flush_file_system
from ferry.worker.files.places import drafts_directory
from ferry.worker.files.sharing import make_directories, share
from ferry.worker.git import lock_files

OBJECT_NAME = re.compile(r"[0-9a-f]{40}(?:[0-9a-f]{24})?")  # of SHA-1 or SHA-256, written in full
_LOCK_WAIT_S = 1.0  # as long as git waits for a packed-refs lock (core.packedRefsTimeout)
_flushed_packed: dict[Path, tuple[int, int, int]] = {}


class RefError(Exception):
    """
    A ref could not be read or moved as asked.
    """


class RefMovedError(RefError):
    """
    The ref does not stand where it was expected: another process moved it.
    """


class RefLockedError(RefError):
    """
    Another process holds git's lock file of the ref, or died while it did.
    """


def read_ref(git_dir: Path, ref: str) -> str | None:
    """
    Return the object name that *ref* holds, or None where there is no such ref.

    What it returns is on the disk: a ref that was moved and not flushed yet is flushed first.

    Args:
        git_dir: The bare repository.
        ref: A full name such as ``refs/heads/main``; symbolic refs are not followed.

    Raises:
        RefError: If the ref exists and holds no object name.
        OSError: The disk refused.
    """
    try:
        with open(f"{git_dir}/{ref}", "rb") as file:  # Path.read_text takes twice as long
            text = file.read().decode("ascii", "replace").strip()
            is_flushed = os.fstat(file.fileno()).st_nlink == 1
    except (FileNotFoundError, NotADirectoryError, IsADirectoryError):
        # git packs a ref by writing packed-refs first and removing the loose
        # file then, so that this order of looking never misses it.
        return _read_packed(git_dir, ref)
    if not OBJECT_NAME.fullmatch(text):
        raise RefError(f"{ref} holds {text[:60]!r} where a commit is expected; look with: git fsck")
    if not is_flushed:
        # Its mover holds the draft, the file's second name, until the directory is flushed; it may
        # have died before that, and a power cut would undo what is told of this ref.
        flush_directory((git_dir / ref).parent)
    return text


def _read_packed(git_dir: Path, ref: str) -> str | None:
    try:
        with (git_dir / "packed-refs").open("rb") as file:
            text = file.read().decode("utf-8", "replace")
            _flush_packed(git_dir, file.fileno())
    except FileNotFoundError:
        return None
    line = re.search(rf"^([0-9a-f]{{40,64}}) {re.escape(ref)}$", text, re.MULTILINE)
    return line[1] if line else None


def _flush_packed(git_dir: Path, fd: int) -> None:
    """
    Put packed-refs on the disk, once for each that git writes: it may hold a move that no flush has followed.
    """
    found = os.fstat(fd)
    version = found.st_ino, found.st_mtime_ns, found.st_size
    if _flushed_packed.get(git_dir) != version:
        os.fsync(fd)
        flush_directory(git_dir)
        _flushed_packed[git_dir] = version


def move_ref(git_dir: Path, ref: str, *, new: str, old: str | None) -> None:
    """
    Move *ref* from *old* to *new*, durably, or not at all.

    On return the ref is on disk, and so is all that was written to its file
    system before: a ref that survives a power cut must not name a commit that
    did not.

    Only for the holder of the lock that Ferry keeps for this ref. The new content is
    written to the ref's draft; git's lock file is made as a second name of it, and
    becomes the ref (see ``lock_files``). The draft is removed when the move is on
    disk: a ref with a second name is not flushed yet.

    Args:
        old: Where the ref is expected to stand; None where it must not exist.

    Raises:
        RefMovedError: The ref stands elsewhere.
        RefLockedError: ``REF.lock`` of another process exists and did not go away within a second.
        OSError: The disk refused. The ref stands where it stood, or, where only the
            last flush failed, at *new*, which no reader is told before a flush succeeds.
    """
    path = git_dir / ref
    lock = path.with_name(path.name + ".lock")
    draft = draft_of(git_dir, ref)
    content = f"{new}\n".encode("ascii")
    lock_files.clear_left_over(draft, lock)
    written = _write_after_all_else(git_dir, draft, content)
    _take_lock(git_dir, lock, draft)
    try:
        found = read_ref(git_dir, ref)
        if found != old:
            raise RefMovedError(f"{ref} stands at {found}, expected {old}")
        if not _holds(lock, written, content):
            raise RefLockedError(f"{lock} was changed by another while it was ours")
        lock.rename(path)
    except BaseException:
        if _is(lock, written):
            lock.unlink()
        raise
    try:
        flush_directory(path.parent)
    except FileNotFoundError:  # git has packed the ref since, and removed the directory as empty
        flush(git_dir)
    with contextlib.suppress(OSError):  # the move is made; the next one clears the draft
        draft.unlink()


def draft_of(git_dir: Path, ref: str) -> Path:
    """
    Return where *ref*'s next content is written: a name that no other ref's draft has.
    """
    return drafts_directory(git_dir) / f"{ref}~"  # no ref's name holds a tilde


def _write_after_all_else(git_dir: Path, path: Path, content: bytes) -> os.stat_result:
    """
    Write a new file, and flush it together with everything that its file system was given before.
    """
    flags = os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC
    try:
        fd = os.open(path, flags, 0o666)
    except FileNotFoundError:
        make_directories(str(git_dir), path.parent)
        fd = os.open(path, flags, 0o666)
    try:
        share(str(git_dir), fd)  # it becomes the ref
        if os.write(fd, content) != len(content):
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC), str(path))
        flush_file_system(fd, path)
        return os.fstat(fd)
    finally:
        os.close(fd)


def _is(path: Path, written: os.stat_result) -> bool:
    try:
        return os.path.samestat(path.stat(), written)
    except FileNotFoundError:
        return False


def _holds(path: Path, written: os.stat_result, content: bytes) -> bool:
    """
    Whether *path* is the file that was *written*, with *content* and nothing else in it.
    """
    return _is(path, written) and path.read_bytes() == content


def _take_lock(git_dir: Path, lock: Path, draft: Path) -> None:
    try:
        lock_files.take(git_dir, lock, draft, wait_s=_LOCK_WAIT_S)
    except lock_files.LockFileError as exc:
        raise RefLockedError(str(exc)) from None
