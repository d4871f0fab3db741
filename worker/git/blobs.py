"""
Blobs of any size, read piece by piece.

A loose blob, or one that a pack stores undeltified, is inflated while it is read
(https://git-scm.com/docs/gitformat-pack). A blob that a pack stores as a delta can only be read whole;
``ferry.worker.git.environment`` keeps git from storing large files as deltas.
"""

from __future__ import annotations

import os
import zlib
from bisect import bisect_left
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import BinaryIO

import gitsheets

from ferry.worker.git.loose import MOST_BYTES, header_of, inflated, path_of
from ferry.worker.git.objects import Objects

_SKIPPED_BYTES = 8 << 20  # bytes inflated on the way to a part before an empty piece is yielded
_INDEX = b"\377tOc\0\0\0\2"
_FANOUT, _NAMES = 8, 8 + 1024
_NAME_BYTES, _CHECK_BYTES = 20, 4
_LARGE = 1 << 31  # marks an offset that is in the table of large offsets
_BLOB = 3
_HEADER_BYTES = 4096


@dataclass(frozen=True, slots=True, kw_only=True)
class Blob:
    """
    A blob that has not been read yet.

    Attributes:
        size: How many bytes it has.
        is_whole: Whether reading it needs all of it in memory.
    """

    git_dir: str
    name: str
    size: int
    # A file, the offset of the deflated bytes in it, and how many inflated bytes to skip.
    place: tuple[str, int, int] | None

    @property
    def is_whole(self) -> bool:
        return self.place is None

    def pieces(self, start: int, end: int) -> Iterator[bytes]:
        """
        Yield the bytes from *start* to before *end*; an empty piece now and then on the way to them.

        Raises:
            gitsheets.GitsheetsError, OSError, zlib.error: The blob is missing or damaged.
        """
        if self.place is None:
            yield Objects(self.git_dir).read(self.name, most=MOST_BYTES)[start:end]
            return
        path, offset, header = self.place
        with open(path, "rb") as file:
            file.seek(offset)
            yield from _between(inflated(file, zlib.decompressobj()), start + header, end + header)


def find(git_dir: str, name: str) -> Blob:
    """
    Return the blob with the full name *name*.

    Raises:
        gitsheets.GitsheetsError: The object is missing, damaged, or not a blob.
    """
    for place in (_loose, _packed):
        try:
            if found := place(git_dir, name):
                return found
        except (OSError, zlib.error, IndexError):
            continue  # removed or damaged: the object may be stored elsewhere too
    header = gitsheets.blob_header(git_dir, name)
    if not header or header["kind"] != "blob":
        raise gitsheets.GitsheetsError(f"the blob {name} is missing; look with: git fsck")
    return Blob(git_dir=git_dir, name=name, size=header["size"], place=None)


def _between(pieces: Iterator[bytes], start: int, end: int) -> Iterator[bytes]:
    at = skipped = 0
    for piece in pieces:
        wanted = piece[max(start - at, 0) : max(end - at, 0)]
        at += len(piece)
        skipped += 0 if wanted else len(piece)
        if wanted or skipped >= _SKIPPED_BYTES:
            yield wanted
            skipped = 0
        if at >= end:
            return
    if at < end:
        raise zlib.error("the object is cut short")


def _loose(git_dir: str, name: str) -> Blob | None:
    path = path_of(git_dir, name)
    with open(path, "rb") as file:
        found = header_of(zlib.decompressobj().decompress(file.read(_HEADER_BYTES), _HEADER_BYTES))
    if found is None or found[0] != "blob":
        return None
    return Blob(git_dir=git_dir, name=name, size=found[1], place=(path, 0, found[2]))


def _packed(git_dir: str, name: str) -> Blob | None:
    for index in Path(git_dir, "objects", "pack").glob("*.idx"):
        offset = _offset(index, bytes.fromhex(name))
        if offset is not None:
            pack = index.with_suffix(".pack")
            with pack.open("rb") as file:
                file.seek(offset)
                kind, size = _entry(file)
                if kind != _BLOB:
                    return None  # a delta
                return Blob(git_dir=git_dir, name=name, size=size, place=(str(pack), file.tell(), 0))
    return None


def _offset(index: Path, name: bytes) -> int | None:
    with index.open("rb") as file:
        if file.read(len(_INDEX)) != _INDEX:
            return None
        total = _number(file, _NAMES - 4)
        first = _number(file, _FANOUT + 4 * (name[0] - 1)) if name[0] else 0
        end = _number(file, _FANOUT + 4 * name[0])
        file.seek(_NAMES + _NAME_BYTES * first)
        names = file.read(_NAME_BYTES * (end - first))
        at = bisect_left(range(end - first), name, key=lambda line: _name(names, line))
        if _name(names, at) != name:
            return None
        offsets = _NAMES + (_NAME_BYTES + _CHECK_BYTES) * total
        offset = _number(file, offsets + 4 * (first + at))
        return offset if offset < _LARGE else _number(file, offsets + 4 * total + 8 * (offset - _LARGE), 8)


def _name(names: bytes, line: int) -> bytes:
    return names[_NAME_BYTES * line : _NAME_BYTES * (line + 1)]


def _number(file: BinaryIO, at: int, size: int = 4) -> int:
    return int.from_bytes(os.pread(file.fileno(), size, at), "big")


def _entry(file: BinaryIO) -> tuple[int, int]:
    """
    Read kind and size of an entry of a pack.
    """
    byte = file.read(1)[0]
    kind, size, shift = byte >> 4 & 7, byte & 15, 4
    while byte & 128:
        byte = file.read(1)[0]
        size |= (byte & 127) << shift
        shift += 7
    return kind, size
