"""
git's objects, read in this process.

gitsheets opens the repository anew for each question, a tenth of a millisecond and
more. What was written lately stands in a file of its own, and is read from there
(https://git-scm.com/book/en/v2/Git-Internals-Git-Objects).
"""

from __future__ import annotations

import contextlib
import hashlib
import os
import re
import zlib
from collections.abc import Iterator
from functools import lru_cache
from typing import BinaryIO

import gitsheets

from ferry.worker.git.caches import mend

MOST_BYTES = 64 << 20  # of one object that is read at once; a tree of a million files is smaller
_PIECE_BYTES = 64 << 10  # a thousand times as much may come of it
_INFLATED_BYTES = 1 << 20
_NAME_OF_FILE = re.compile(r"[0-9a-f]{38}")
_IN_THE_MAKING = (".", "tmp_")  # how git and gitsheets call a file that is no object yet
_HEADER = re.compile(rb"(blob|tree|commit|tag) (0|[1-9][0-9]{0,18})\0")
_PARENT = re.compile(rb"^parent ([0-9a-f]+)$", re.MULTILINE)


class ObjectTooLargeError(gitsheets.GitsheetsError):  # type: ignore[misc]  # it ships no types
    """
    An object says of itself that it is larger than may be read at once.
    """

    def __init__(self, name: str, size: int, most: int) -> None:
        super().__init__(f"the object {name} has {size} bytes, and at most {most} are read at once")


def read_loose(git_dir: str, name: str, *, most: int = MOST_BYTES) -> bytes:
    """
    Return kind, size and content of an object that stands in a file of its own, as that file has them.

    Args:
        most: How many bytes of content it may have. No more is inflated than it says it has.

    Raises:
        OSError: There is no such file.
        zlib.error: It is damaged.
        ObjectTooLargeError: It is larger.
    """
    with open(f"{git_dir}/objects/{name[:2]}/{name[2:]}", "rb") as file:
        stream = zlib.decompressobj()
        pieces = inflated(file, stream)
        found = [next(pieces, b"")]
        header = header_of(found[0])
        if header is None:
            raise zlib.error(f"{name} is not an object of git's")
        _, size, begin = header
        if size > most:
            raise ObjectTooLargeError(name, size, most)
        left = begin + size - len(found[0])
        while left >= 0 and (piece := next(pieces, None)) is not None:
            found.append(piece)
            left -= len(piece)
    if left or not stream.eof:
        raise zlib.error(f"{name} has not as many bytes as it says")
    return b"".join(found)


def inflated(file: BinaryIO, stream: zlib._Decompress) -> Iterator[bytes]:
    """
    Yield what *stream* makes of *file*, in pieces of at most a MiB, however much that is.

    Raises:
        zlib.error: It is damaged.
    """
    while not stream.eof:
        given = stream.unconsumed_tail or file.read(_PIECE_BYTES)
        piece = stream.decompress(given, _INFLATED_BYTES)
        if not given and not piece:
            return  # it is cut short
        yield piece


def header_of(begin: bytes) -> tuple[str, int, int] | None:
    """
    Return kind and size that an object says it has, and where its content begins; None: it is no object.

    Args:
        begin: Its first bytes, inflated.
    """
    header = _HEADER.match(begin)
    return (header[1].decode(), int(header[2]), header.end()) if header else None


def read(git_dir: str, name: str, *, most: int = MOST_BYTES) -> bytes:
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
        return read_loose(git_dir, name, most=most).partition(b"\0")[2]
    except (OSError, zlib.error):
        return _read_packed(git_dir, name, most)


def _read_packed(git_dir: str, name: str, most: int) -> bytes:
    header = None
    with contextlib.suppress(gitsheets.GitsheetsError):
        header = gitsheets.blob_header(git_dir, name)
    if header and header["size"] > most:
        raise ObjectTooLargeError(name, header["size"], most)
    content = None
    with contextlib.suppress(gitsheets.GitsheetsError):
        content = gitsheets.blob_read(git_dir, name)
    if content is None and mend(git_dir):
        content = gitsheets.blob_read(git_dir, name)
    if content is None:
        raise gitsheets.GitsheetsError(f"the object {name} is missing or damaged; look with: git fsck")
    return bytes(content)


def is_commit(git_dir: str, name: str) -> bool:
    """
    Whether there is an object with the full name *name*, and it is a commit.
    """
    try:
        return read_loose(git_dir, name).startswith(b"commit ")
    except (OSError, zlib.error):
        header = gitsheets.blob_header(git_dir, name)
    return bool(header) and header["kind"] == "commit"


def loose(git_dir: str) -> tuple[list[str], dict[str, str]]:
    """
    Look at every file that is to be a loose object.

    Returns:
        The names of those that are what they are called, and of each other file, by its
        path in the repository, what is wrong with it.
    """
    sound, damaged = [], {}
    for directory, file in _loose_files(git_dir):
        path = f"objects/{directory}/{file}"
        if not _NAME_OF_FILE.fullmatch(file):
            damaged[path] = "is not called like an object"
            continue
        try:
            fault = _fault(f"{git_dir}/{path}", directory + file)
        except FileNotFoundError:
            continue  # git has just removed it: it is in a pack
        except (OSError, zlib.error) as exc:
            fault = f"cannot be read: {exc}"
        if fault:
            damaged[path] = fault
        else:
            sound.append(directory + file)
    return sound, damaged


def _loose_files(git_dir: str) -> Iterator[tuple[str, str]]:
    for number in range(256):
        directory = f"{number:02x}"
        try:
            files = os.listdir(f"{git_dir}/objects/{directory}")
        except (FileNotFoundError, NotADirectoryError):
            continue
        yield from ((directory, file) for file in files if not file.startswith(_IN_THE_MAKING))


def _fault(path: str, name: str) -> str | None:
    """
    Return what is wrong with the loose object at *path*, or None.
    """
    stream, digest = zlib.decompressobj(), hashlib.sha1(usedforsecurity=False)
    head, size = b"", 0
    with open(path, "rb") as file:
        for content in inflated(file, stream):
            digest.update(content)
            head, size = head or content[:64], size + len(content)
        rest = stream.unused_data or file.read(1)
    if size == 0:
        return "is empty"
    if not stream.eof:
        return "is cut short"
    if digest.hexdigest() != name:
        return "holds something else than its name says"
    header = header_of(head)
    if rest or header is None or header[1] != size - header[2]:
        return "is not an object of git's"
    return None


def lineage(git_dir: str, old: str, new: str, *, longest: int, packed: bool = True) -> list[str]:
    """
    Return the commits from *new* to before *old*, newest first, where each has one parent; else none.

    Args:
        longest: How many commits to look at.
        packed: Whether to read commits that are in a pack, which takes some ten times as long.
    """
    found: list[str] = []
    try:
        while new != old:
            parents = _parents(git_dir, new, packed)
            found.append(new)
            if len(parents) != 1 or len(found) > longest:
                return []
            new = parents[0]
    except (gitsheets.GitsheetsError, OSError, zlib.error):
        return []
    return found


@lru_cache(maxsize=4096)
def _parents(git_dir: str, commit: str, packed: bool) -> tuple[str, ...]:
    content = read(git_dir, commit) if packed else read_loose(git_dir, commit)
    return tuple(name.decode("ascii") for name in _PARENT.findall(content.partition(b"\n\n")[0]))
