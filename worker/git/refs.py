"""
Reading and moving one ref without starting a git process.

Writes move the branch and push tasks read it, many times a second; ``git rev-parse`` and ``git update-ref``
would take several milliseconds each. The files and the locking are git's own ("files" backend, see
https://git-scm.com/docs/gitrepository-layout), so that git and Ferry can use one repository at the same time.
"""

from __future__ import annotations

import contextlib
import errno
import os
import re
from pathlib import Path

from ferry.worker.files.flushing import flush, flush_directory, flush_file_system
from ferry.worker.files.places import drafts_directory, file_in
from ferry.worker.files.sharing import make_directories, share
from ferry.worker.git import lock_files

OBJECT_NAME = re.compile(r"[0-9a-f]{40}(?:[0-9a-f]{24})?")  # full SHA-1 or SHA-256
_LOCK_WAIT_S = 1.0  # git's own wait for the lock of packed-refs (core.packedRefsTimeout)
_flushed_packed: dict[Path, tuple[int, int, int]] = {}


class RefError(Exception):
    """
    A ref cannot be read or moved.
    """


class RefMovedError(RefError):
    """
    The ref is not at the expected commit: another process moved it.
    """


class RefLockedError(RefError):
    """
    Another process holds git's lock file of the ref, or died while it held it.
    """


def read_ref(git_dir: Path, ref: str) -> str | None:
    """
    Return the object name in *ref*, or None if there is no such ref.

    The returned value is on the disk: a ref that was moved and not yet flushed is flushed first.

    Args:
        git_dir: The bare repository.
        ref: A full name such as ``refs/heads/main``; symbolic refs are not followed.

    Raises:
        RefError: The ref exists and does not contain an object name.
        OSError: The disk refused.
    """
    try:
        with open(f"{git_dir}/{ref}", "rb") as file:  # half the time of Path.read_text
            text = file.read().decode("ascii", "replace").strip()
            is_flushed = os.fstat(file.fileno()).st_nlink == 1
    except (FileNotFoundError, NotADirectoryError, IsADirectoryError):
        # git packs a ref by writing packed-refs before it removes the loose file, so reading the loose file
        # first never misses the ref.
        return _read_packed(git_dir, ref)
    if not OBJECT_NAME.fullmatch(text):
        raise RefError(f"{ref} holds {text[:60]!r} where a commit is expected; look with: git fsck")
    if not is_flushed:
        # While the draft, the file's second name, exists, the directory may not be flushed: its writer is at
        # it, or died. Then a power cut could undo the value that this call returns.
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
    Flush packed-refs, once for each version that git writes: it may contain a move that was not flushed.
    """
    found = os.fstat(fd)
    version = found.st_ino, found.st_mtime_ns, found.st_size
    if _flushed_packed.get(git_dir) != version:
        os.fsync(fd)
        flush_directory(git_dir)
        _flushed_packed[git_dir] = version


def move_ref(git_dir: Path, ref: str, *, new: str, old: str | None, lasts: bool = True) -> None:
    """
    Move *ref* from *old* to *new*, durably, or not at all.

    On return the ref is on the disk, with everything that was written to its file system before: after a
    power cut a ref must not name a lost commit.

    The caller holds Ferry's lock for this ref. The function writes the new content to the ref's draft, makes
    git's lock file as a second name of the draft, and renames the lock file to the ref (see ``lock_files``).
    It removes the draft when the move is on the disk: a ref with a second name may not be flushed yet.

    Args:
        old: The expected object name of the ref; None if it must not exist.
        lasts: Whether a power cut must not undo the move. If it may, the commit is on the disk already, and
            nothing is flushed but the ref's new content: two waits for the disk less.

    Raises:
        RefMovedError: The ref has another value.
        RefLockedError: ``REF.lock`` of another process exists and did not go away within a second.
        OSError: The file cannot be written. The ref is unchanged; or only the last flush failed, and the ref
            is at *new*, which readers return only after a successful flush.
    """
    path, lock = file_in(git_dir, ref), file_in(git_dir, f"{ref}.lock")
    draft = draft_of(git_dir, ref)
    content = f"{new}\n".encode("ascii")
    lock_files.clear_left_over(draft, lock)
    written = _write(git_dir, draft, content, after_all_else=lasts)
    _take_lock(git_dir, lock, draft)
    try:
        found = read_ref(git_dir, ref)
        if found != old:
            raise RefMovedError(f"{ref} is at {found}, expected {old}")
        if not _holds(lock, written, content):
            raise RefLockedError(f"another program changed {lock} while Ferry held it")
        lock.rename(path)
    except BaseException:
        if _is(lock, written):
            lock.unlink()
        raise
    try:
        if lasts:
            flush_directory(path.parent)
    except FileNotFoundError:  # git has packed the ref meanwhile and removed the empty directory
        flush(git_dir)
    with contextlib.suppress(OSError):  # the ref is moved; the next move removes the draft
        draft.unlink()


def draft_of(git_dir: Path, ref: str) -> Path:
    """
    Return the path of *ref*'s draft. Each ref has its own.
    """
    return file_in(drafts_directory(git_dir), f"{ref}~")  # a ref's name cannot contain a tilde


def _write(git_dir: Path, path: Path, content: bytes, *, after_all_else: bool) -> os.stat_result:
    """
    Write a new file and flush it, together with everything written to its file system before if that is
    wanted.
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
        if after_all_else:
            flush_file_system(fd, path)
        else:
            os.fsync(fd)
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
    Whether *path* is still the file that was *written*, with exactly *content*.
    """
    return _is(path, written) and path.read_bytes() == content


def _take_lock(git_dir: Path, lock: Path, draft: Path) -> None:
    try:
        lock_files.take(git_dir, lock, draft, wait_s=_LOCK_WAIT_S)
    except lock_files.LockFileError as exc:
        raise RefLockedError(str(exc)) from None
