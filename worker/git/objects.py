"""
git's objects, read and written in this process.

gitsheets opens the repository for each question, which takes a tenth of a millisecond and
more. Recent objects are loose, and are read from their files (see ``loose``). An object
never changes, so commits and trees that are read often are kept in memory.
"""

from __future__ import annotations

import contextlib
import hashlib
import re
import threading
import zlib
from collections.abc import Mapping, Sequence
from functools import lru_cache
from pathlib import Path

import gitsheets
from cachetools import LRUCache

from ferry.worker.git.caches import mend
from ferry.worker.git.loose import MOST_BYTES, ObjectTooLargeError, read_loose, write_loose
from ferry.worker.git.signing import Committer, unsigned_form

_KEPT_BYTES = 64 * 1024 * 1024
_OVERHEAD_BYTES = 400  # of memory for each object that is kept
_PARENT = re.compile(rb"^parent ([0-9a-f]+)$", re.MULTILINE)


class Objects:
    """
    The objects of one repository.

    Args:
        git_dir: The bare repository's directory.
        committer: Who commits, and signs; default: each commit's author, without a signature.
    """

    def __init__(self, git_dir: str | Path, committer: Committer | None = None) -> None:
        self.git_dir = str(git_dir)
        self.committer = committer or Committer()
        self._lock = threading.Lock()
        self._kept: LRUCache[str, bytes] = LRUCache(
            _KEPT_BYTES, getsizeof=lambda content: len(content) + _OVERHEAD_BYTES
        )

    def read(self, name: str, *, most: int = MOST_BYTES) -> bytes:
        """
        Return the content of an object.

        Args:
            name: Its full name.
            most: How many bytes it may have.

        Raises:
            ObjectTooLargeError: It is larger; its size was asked before it was read.
            gitsheets.GitsheetsError: It is missing or damaged.
        """
        try:
            return read_loose(self.git_dir, name, most=most).partition(b"\0")[2]
        except (OSError, zlib.error):
            return self._read_packed(name, most)

    def kept(self, name: str, *, most: int = MOST_BYTES) -> bytes:
        """
        Return the content of a commit, a tree or a declaration, and keep it in memory.

        Args:
            most: How many bytes it may have.

        Raises:
            gitsheets.GitsheetsError: It is missing, damaged or larger.
        """
        with self._lock:
            content = self._kept.get(name)
        return self._keep(name, self.read(name, most=most)) if content is None else content

    def is_commit(self, name: str) -> bool:
        """
        Whether there is an object with the full name *name*, and it is a commit.
        """
        try:
            return read_loose(self.git_dir, name).startswith(b"commit ")
        except (OSError, zlib.error):
            header = gitsheets.blob_header(self.git_dir, name)
        return bool(header) and header["kind"] == "commit"

    def lineage(self, old: str, new: str, *, longest: int, packed: bool = True) -> list[str]:
        """
        Return the commits from *new* to before *old*, newest first, where each has one parent; else none.

        Args:
            longest: How many commits to look at.
            packed: Whether to read commits that are in a pack, which takes some ten times as long.
        """
        found: list[str] = []
        try:
            while new != old:
                parents = _parents(self.git_dir, new, packed)
                found.append(new)
                if len(parents) != 1 or len(found) > longest:
                    return []
                new = parents[0]
        except (gitsheets.GitsheetsError, OSError, zlib.error):
            return []
        return found

    def write(self, kind: str, content: bytes) -> str:
        """
        Store an object in a file of its own; returns its full name. Only a flush puts it on the disk.

        Args:
            kind: ``blob``, ``tree`` or ``commit``.

        Raises:
            OSError: The disk refused; nothing is left behind.
        """
        whole = _whole(kind, content)
        name = _digest(whole)
        write_loose(self.git_dir, name, whole)
        if kind != "blob":
            self._keep(name, content)
        return name

    def write_commit(
        self,
        tree: str,
        parents: tuple[str, ...],
        message: str,
        *,
        author: tuple[str, str],
        seconds: int,
        trailers: Sequence[tuple[str, str]] = (),
    ) -> str:
        """
        Store a commit; returns its full name. Unsigned, it has the bytes that gitsheets gives it.

        Args:
            author: Name and e-mail address.
            seconds: Since the epoch, in UTC.
            trailers: Key and value of each, set off from the message by an empty line.

        Raises:
            ValueError: A name or a trailer holds what would end its line.
            SigningError: It is to be signed, and cannot be.
        """
        lines = [f"{key}: {value}" for key, value in trailers]
        if any(character in text for text in (*author, *lines) for character in "\n\0") or any(
            character in text for text in author for character in "<>"
        ):
            raise ValueError(f"an author or a trailer would break the commit: {author!r}, {lines!r}")
        text = message.rstrip("\n") + ("\n\n" + "\n".join(lines) if lines else "") + "\n"
        roles = {"author": author, "committer": self.committer.identity or author}
        head = [f"tree {tree}", *(f"parent {parent}" for parent in parents)]
        head += [f"{role} {name} <{email}> {seconds} +0000" for role, (name, email) in roles.items()]
        whole = "\n".join(head) + "\n\n" + text
        return self.write("commit", self.committer.signed(whole.encode()))

    def commit_again(self, name: str, parents: Mapping[str, str]) -> str:
        """
        Store a commit that another program made as ours: signed, and with other parents; returns its name.

        Args:
            parents: What takes the place of a parent; the others stay.

        Raises:
            SigningError: It is to be signed, and cannot be.
        """
        head, gap, text = unsigned_form(self.read(name)).partition(b"\n\n")

        def parent(found: re.Match[bytes]) -> bytes:
            old = found[1].decode("ascii")
            return b"parent %s" % parents.get(old, old).encode("ascii")

        return self.write("commit", self.committer.signed(_PARENT.sub(parent, head) + gap + text))

    def _keep(self, name: str, content: bytes) -> bytes:
        with self._lock, contextlib.suppress(ValueError):  # it is larger than the whole cache
            self._kept[name] = content
        return content

    def _read_packed(self, name: str, most: int) -> bytes:
        header = None
        with contextlib.suppress(gitsheets.GitsheetsError):
            header = gitsheets.blob_header(self.git_dir, name)
        if header and header["size"] > most:
            raise ObjectTooLargeError(name, header["size"], most)
        content = None
        with contextlib.suppress(gitsheets.GitsheetsError):
            content = gitsheets.blob_read(self.git_dir, name)
        if content is None and mend(self.git_dir):
            content = gitsheets.blob_read(self.git_dir, name)
        if content is None:
            raise gitsheets.GitsheetsError(f"the object {name} is missing or damaged; look with: git fsck")
        return bytes(content)


@lru_cache(maxsize=4096)
def _parents(git_dir: str, commit: str, packed: bool) -> tuple[str, ...]:
    content = Objects(git_dir).read(commit) if packed else read_loose(git_dir, commit)
    return tuple(name.decode("ascii") for name in _PARENT.findall(content.partition(b"\n\n")[0]))


def name_of(kind: str, content: bytes) -> str:
    """
    Return the full object name of *content*.

    Args:
        kind: ``blob``, ``tree`` or ``commit``.
    """
    return _digest(_whole(kind, content))


def _whole(kind: str, content: bytes) -> bytes:
    return b"%s %d\0%s" % (kind.encode(), len(content), content)


def _digest(whole: bytes) -> str:
    return hashlib.sha1(whole, usedforsecurity=False).hexdigest()
