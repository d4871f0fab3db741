"""
git's objects, written in this process, and those kept that are asked for again and again.

An object's name never changes its meaning, so commits and trees are kept as they
are on disk (https://git-scm.com/book/en/v2/Git-Internals-Git-Objects).
"""

from __future__ import annotations

import contextlib
import errno
import hashlib
import os
import secrets
import threading
import zlib
from collections.abc import Sequence

from cachetools import LRUCache

from ferry.worker.files.sharing import make_directory, share
from ferry.worker.git.objects import MOST_BYTES, read, read_loose

_KEPT_BYTES = 64 * 1024 * 1024
_OVERHEAD_BYTES = 400  # what Python takes for the entry of one object
_FASTEST = 1  # as gitsheets does; object names, of which trees are made, do not get smaller by trying
# zlib's own choice is 32 KiB and level 8, for which it takes a quarter of a MiB anew each time:
# ten times as long as a record's bytes need. Trees get no larger, and git reads any window.
_WINDOW_BITS, _MEMORY_LEVEL = 13, 7
_TRIES = 100
_DRAFT = "tmp_obj_"  # git clears away what is called so
_lock = threading.Lock()
_kept: LRUCache[tuple[str, str], bytes] = LRUCache(
    _KEPT_BYTES, getsizeof=lambda content: len(content) + _OVERHEAD_BYTES
)


def kept(git_dir: str, name: str, *, most: int = MOST_BYTES) -> bytes:
    """
    Return the content of a commit, a tree or a declaration, from memory where it was asked for before.

    Args:
        most: How many bytes it may have.

    Raises:
        gitsheets.GitsheetsError: It is missing, damaged or larger.
    """
    with _lock:
        content = _kept.get((git_dir, name))
    return _keep(git_dir, name, read(git_dir, name, most=most)) if content is None else content


def name_of(kind: str, content: bytes) -> str:
    """
    Return the full object name of *content*.

    Args:
        kind: ``blob``, ``tree`` or ``commit``.
    """
    return _digest(_whole(kind, content))


def write(git_dir: str, kind: str, content: bytes) -> str:
    """
    Store an object in a file of its own; returns its full name. Only a flush puts it on the disk.

    Args:
        kind: ``blob``, ``tree`` or ``commit``.

    Raises:
        OSError: The disk refused; nothing is left behind.
    """
    whole = _whole(kind, content)
    name = _digest(whole)
    if not _stands(git_dir, name, whole):
        _create(git_dir, name, _compressed(whole))
    if kind != "blob":
        _keep(git_dir, name, content)
    return name


def write_commit(
    git_dir: str,
    tree: str,
    parent: str,
    message: str,
    *,
    author: tuple[str, str],
    seconds: int,
    trailers: Sequence[tuple[str, str]],
) -> str:
    """
    Store a commit; returns its full name. It has the bytes that gitsheets gives it.

    Args:
        author: Name and e-mail address; the committer is the same.
        seconds: Since the epoch, in UTC.
        trailers: Key and value of each, set off from the message by an empty line.

    Raises:
        ValueError: A name or a trailer holds what would end its line.
    """
    lines = [f"{key}: {value}" for key, value in trailers]
    if any(character in text for text in (*author, *lines) for character in "\n\0") or any(
        character in text for text in author for character in "<>"
    ):
        raise ValueError(f"an author or a trailer would break the commit: {author!r}, {lines!r}")
    who = f"{author[0]} <{author[1]}> {seconds} +0000"
    text = message.rstrip("\n") + ("\n\n" + "\n".join(lines) if lines else "") + "\n"
    head = f"tree {tree}\nparent {parent}\nauthor {who}\ncommitter {who}\n\n"
    return write(git_dir, "commit", (head + text).encode())


def _keep(git_dir: str, name: str, content: bytes) -> bytes:
    with _lock, contextlib.suppress(ValueError):  # it is larger than all that may be kept
        _kept[git_dir, name] = content
    return content


def _whole(kind: str, content: bytes) -> bytes:
    return b"%s %d\0%s" % (kind.encode(), len(content), content)


def _digest(whole: bytes) -> str:
    return hashlib.sha1(whole, usedforsecurity=False).hexdigest()


def _compressed(whole: bytes) -> bytes:
    stream = zlib.compressobj(_FASTEST, zlib.DEFLATED, _WINDOW_BITS, _MEMORY_LEVEL)
    return stream.compress(whole) + stream.flush()


def _stands(git_dir: str, name: str, whole: bytes) -> bool:
    # A file is left alone where it is good: to replace it would put at risk what is on
    # the disk already. And a file that a power cut has emptied is replaced.
    try:
        if read_loose(git_dir, name) != whole:
            return False
        os.utime(f"{git_dir}/objects/{name[:2]}/{name[2:]}")  # or `git gc` may take it for long forgotten
    except (OSError, zlib.error):
        return False
    return True


def _create(git_dir: str, name: str, content: bytes) -> None:
    directory = f"{git_dir}/objects/{name[:2]}"
    draft = f"{directory}/{_DRAFT}{secrets.token_hex(8)}"
    fd = _open_new(draft, directory, git_dir)
    try:
        with open(fd, "wb") as file:
            file.write(content)
            share(git_dir, fd)
        os.rename(draft, f"{directory}/{name[2:]}")
    except BaseException:
        with contextlib.suppress(OSError):
            os.unlink(draft)
        raise


def _open_new(path: str, directory: str, git_dir: str) -> int:
    for _ in range(_TRIES):
        with contextlib.suppress(FileNotFoundError):
            return os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, 0o444)
        # git removes the directories that it has emptied, also the one that was just made.
        make_directory(git_dir, directory)
    raise FileNotFoundError(errno.ENOENT, os.strerror(errno.ENOENT), path)
