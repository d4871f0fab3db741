"""
Objects that exist in memory alone, until they are stored: one by one, or many in a pack.

A pack of a hundred thousand records is two files, where each loose object would be one. Its format is git's
own (https://git-scm.com/docs/gitformat-pack); git checks it and makes its index.
"""

from __future__ import annotations

import hashlib
import os
import struct
import zlib
from collections.abc import Iterator, Mapping, Sequence
from typing import BinaryIO, cast

from ferry.worker.git import inventory
from ferry.worker.git.command import Git
from ferry.worker.git.loose import MOST_BYTES
from ferry.worker.git.objects import Objects, name_of

_FEW = 1000  # objects; more go into a pack
_NOT_WORTH = 30  # objects, for which git need not be started
_AHEAD_BYTES = 16 << 20
_TIMEOUT_S = 300.0
_KINDS = {"commit": 1, "tree": 2, "blob": 3}
_FASTEST = 1


class Unwritten(Objects):
    """
    The objects of a repository, and further ones that exist in memory alone: ``write`` writes nothing.

    Args:
        stored: Those of the repository.
        git: The repository's git.
    """

    def __init__(self, stored: Objects, git: Git) -> None:
        super().__init__(stored.git_dir, stored.committer)
        self._stored = stored
        self._git = git
        self._ahead: Mapping[str, bytes] = {}
        self._made: dict[str, tuple[str, bytes]] = {}

    def read(self, name: str, *, most: int = MOST_BYTES) -> bytes:
        if (found := self._ahead.get(name)) is not None:
            return found
        made = self._made.get(name)
        return self._stored.read(name, most=most) if made is None else made[1]

    def kept(self, name: str, *, most: int = MOST_BYTES) -> bytes:
        made = self._made.get(name)
        return self._stored.kept(name, most=most) if made is None else made[1]

    def write(self, kind: str, content: bytes) -> str:
        name = name_of(kind, content)
        self._made[name] = kind, content
        return name

    def read_ahead(self, names: Sequence[str]) -> None:
        """
        Read objects that are asked for next: git reads many at once, and faster.

        Forgets those of the last time.
        """
        self._ahead = {}
        if len(names) > _NOT_WORTH and sum(inventory.sizes(self._git, names).values()) <= _AHEAD_BYTES:
            self._ahead = inventory.contents(self._git, names)

    def store(self) -> None:
        """
        Store the objects that are in memory alone; only a flush puts them on the disk.

        Raises:
            OSError, RepositoryError: They cannot be stored.
        """
        if len(self._made) <= _FEW:
            for kind, content in self._made.values():
                self._stored.write(kind, content)
            return
        with open(os.memfd_create("pack"), "w+b") as pack:
            pack.writelines(_pack(self._made))
            pack.seek(0)
            self._git.query("index-pack", "--stdin", timeout_s=_TIMEOUT_S, stdin=cast(BinaryIO, pack))


def _pack(objects: Mapping[str, tuple[str, bytes]]) -> Iterator[bytes]:
    digest = hashlib.sha1(usedforsecurity=False)
    pieces = [b"PACK" + struct.pack(">II", 2, len(objects))]
    for kind, content in objects.values():
        pieces.append(_head(kind, len(content)) + zlib.compress(content, _FASTEST))
        if len(pieces) >= _FEW:
            yield _counted(pieces, digest)
            pieces = []
    yield _counted(pieces, digest)
    yield digest.digest()


def _counted(pieces: list[bytes], digest: hashlib._Hash) -> bytes:
    piece = b"".join(pieces)
    digest.update(piece)
    return piece


def _head(kind: str, size: int) -> bytes:
    """
    Return the kind and size of an object: three bits and four, then seven for each byte, the lowest first.
    """
    head, rest = (_KINDS[kind] << 4) | (size & 0b1111), size >> 4
    found = []
    while rest:
        found.append(head | 0b10000000)
        head, rest = rest & 0b1111111, rest >> 7
    return bytes([*found, head])
