"""
Reading and writing git's objects in this process.

gitsheets opens the repository for each read, which takes a tenth of a millisecond or more. Recent objects are
loose, and this module reads their files itself (see ``loose``). An object never changes, so commits and trees
that are read often stay in memory.
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
_OVERHEAD_BYTES = 400  # bytes of memory that each cached object takes beside its content
_PARENT = re.compile(rb"^parent ([0-9a-f]+)$", re.MULTILINE)


class Objects:
    """
    The objects of one repository.

    Args:
        git_dir: The bare repository's directory.
        committer: Committer and signer of new commits; default: each commit's author, without a signature.
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
            ObjectTooLargeError: It is larger. Its size is checked before it is read.
            gitsheets.GitsheetsError: It is missing or damaged.
        """
        try:
            return read_loose(self.git_dir, name, most=most).partition(b"\0")[2]
        except (OSError, zlib.error):
            return self._read_packed(name, most)

    def kept(self, name: str, *, most: int = MOST_BYTES) -> bytes:
        """
        Return the content of a commit, a tree or a declaration, and cache it in memory.

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
        Whether *name* is the full name of a commit in the repository.
        """
        try:
            return read_loose(self.git_dir, name).startswith(b"commit ")
        except (OSError, zlib.error):
            header = gitsheets.blob_header(self.git_dir, name)
        return bool(header) and header["kind"] == "commit"

    def lineage(self, old: str | None, new: str, *, longest: int, packed: bool = True) -> list[str]:
        """
        Return the commits from *new* to before *old*, newest first, if each has exactly one parent; else
        nothing.

        Args:
            old: None: return all of a history without merges.
            longest: The most commits to read.
            packed: Whether to read packed commits too, which takes about ten times as long.
        """
        found: list[str] = []
        try:
            while new != old:
                parents = _parents(self.git_dir, new, packed)
                found.append(new)
                if old is None and not parents:
                    return found
                if len(parents) != 1 or len(found) > longest:
                    return []
                new = parents[0]
        except (gitsheets.GitsheetsError, OSError, zlib.error):
            return []
        return found

    def is_ancestor(self, old: str, new: str, *, most: int) -> bool | None:
        """
        Whether the commit *old* is *new* or an ancestor of it; None if loose commits alone do not tell.

        Args:
            most: The most commits to read.
        """
        found = [new]
        try:
            for commit in found:  # which grows
                if commit == old:
                    return True
                if len(found) > most:
                    return None
                found += [each for each in _parents(self.git_dir, commit, False) if each not in found]
        except (gitsheets.GitsheetsError, OSError, zlib.error):
            return None
        return False

    def write(self, kind: str, content: bytes) -> str:
        """
        Store a loose object; returns its full name. Only a flush puts it on the disk.

        Args:
            kind: ``blob``, ``tree`` or ``commit``.

        Raises:
            OSError: It cannot be written; nothing is left behind.
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
        Store a commit; returns its full name. An unsigned commit has the same bytes as one made by gitsheets.

        Args:
            author: Name and e-mail address.
            seconds: Since the epoch, in UTC.
            trailers: Key and value of each; an empty line separates them from the message.

        Raises:
            ValueError: A name or a trailer contains a line break or another character that would end its
                line.
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
        Store a copy of a commit that another program made, signed by Ferry and with other parents; returns
        its name.

        Args:
            parents: The replacement of each parent that changes; the other parents stay.

        Raises:
            SigningError: It is to be signed, and cannot be.
        """
        head, gap, text = unsigned_form(self.read(name)).partition(b"\n\n")

        def parent(found: re.Match[bytes]) -> bytes:
            old = found[1].decode("ascii")
            return b"parent %s" % parents.get(old, old).encode("ascii")

        return self.write("commit", self.committer.signed(_PARENT.sub(parent, head) + gap + text))

    def _keep(self, name: str, content: bytes) -> bytes:
        with self._lock, contextlib.suppress(ValueError):  # the object is larger than the whole cache
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


@lru_cache(maxsize=512)  # some bursts; a push reads them several times
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
