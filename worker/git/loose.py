"""
Loose objects, each in a file of its own: read piece by piece, written whole, and checked.

The format is git's own (https://git-scm.com/book/en/v2/Git-Internals-Git-Objects).
"""

from __future__ import annotations

import contextlib
import errno
import hashlib
import os
import re
import secrets
import zlib
from collections.abc import Iterator
from typing import BinaryIO

import gitsheets

from ferry.worker.files.sharing import make_directory, share

MOST_BYTES = 64 << 20  # of one object that is read into memory; a tree of a million files is smaller
_PIECE_BYTES = 64 << 10  # bytes; inflated they may be a thousand times as many
_INFLATED_BYTES = 1 << 20
_NAME_OF_FILE = re.compile(r"[0-9a-f]{38}")
_IN_THE_MAKING = (".", "tmp_")  # prefixes of temporary files of git and gitsheets
_HEADER = re.compile(rb"(blob|tree|commit|tag) (0|[1-9][0-9]{0,18})\0")
_FASTEST = 1  # gitsheets' level; trees consist of object names, which a higher level does not compress better
# With its default window of 32 KiB and memory level 8, zlib allocates a quarter of a MiB for each object,
# which takes ten times as long as compressing a record. A smaller window makes trees no larger, and git reads
# any window.
_WINDOW_BITS, _MEMORY_LEVEL = 13, 7
_TRIES = 100
_DRAFT = "tmp_obj_"  # git removes abandoned files with this prefix


class ObjectTooLargeError(gitsheets.GitsheetsError):  # type: ignore[misc]  # it ships no types
    """
    An object's header gives a larger size than may be read into memory.
    """

    def __init__(self, name: str, size: int, most: int) -> None:
        super().__init__(f"the object {name} has {size} bytes; at most {most} can be read into memory")


def path_of(git_dir: str, name: str) -> str:
    """
    Return the path of an object's own file, which need not exist.
    """
    return f"{git_dir}/objects/{name[:2]}/{name[2:]}"


def read_loose(git_dir: str, name: str, *, most: int = MOST_BYTES) -> bytes:
    """
    Return kind, size and content of a loose object.

    Args:
        most: How many bytes of content it may have. Inflates no more bytes than its header gives.

    Raises:
        OSError: There is no such file.
        zlib.error: It is damaged.
        ObjectTooLargeError: It is larger.
    """
    with open(path_of(git_dir, name), "rb") as file:
        stream = zlib.decompressobj()
        pieces = inflated(file, stream)
        found = [next(pieces, b"")]
        header = header_of(found[0])
        if header is None:
            raise zlib.error(f"{name} is not a git object")
        _, size, begin = header
        if size > most:
            raise ObjectTooLargeError(name, size, most)
        left = begin + size - len(found[0])
        while left >= 0 and (piece := next(pieces, None)) is not None:
            found.append(piece)
            left -= len(piece)
    if left or not stream.eof:
        raise zlib.error(f"{name} has another size than its header gives")
    return b"".join(found)


def inflated(file: BinaryIO, stream: zlib._Decompress) -> Iterator[bytes]:
    """
    Yield *file* inflated by *stream*, in pieces of at most a MiB.

    Raises:
        zlib.error: It is damaged.
    """
    while not stream.eof:
        given = stream.unconsumed_tail or file.read(_PIECE_BYTES)
        piece = stream.decompress(given, _INFLATED_BYTES)
        if not given and not piece:
            return  # the file is truncated
        yield piece


def header_of(begin: bytes) -> tuple[str, int, int] | None:
    """
    Return kind and size from an object's header, and the offset of its content; None: it is not an object.

    Args:
        begin: Its first bytes, inflated.
    """
    header = _HEADER.match(begin)
    return (header[1].decode(), int(header[2]), header.end()) if header else None


def write_loose(git_dir: str, name: str, whole: bytes) -> None:
    """
    Write a loose object, unless it exists. Only a flush puts it on the disk.

    Args:
        whole: Kind, size and content.

    Raises:
        OSError: It cannot be written; nothing is left behind.
    """
    if not _stands(git_dir, name, whole):
        _create(git_dir, name, _compressed(whole))


def survey(git_dir: str, *, most: int) -> Iterator[tuple[list[str], dict[str, str]]]:
    """
    Check every loose object, in parts of at most *most* sound ones.

    Yields:
        For each part the names of the sound objects, and the fault of each other file, by its path in the
        repository.
    """
    sound: list[str] = []
    damaged: dict[str, str] = {}
    for directory, file in _loose_files(git_dir):
        path, fault = f"objects/{directory}/{file}", "does not have the name of an object"
        try:
            if _NAME_OF_FILE.fullmatch(file):
                fault = _fault(f"{git_dir}/{path}", directory + file) or ""
        except FileNotFoundError:
            continue  # git has just removed it, because it is in a pack
        except (OSError, zlib.error) as exc:
            fault = f"cannot be read: {exc}"
        if fault:
            damaged[path] = fault
            continue
        sound.append(directory + file)
        if len(sound) == most:
            yield sound, damaged
            sound, damaged = [], {}
    yield sound, damaged


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
        return "is truncated"
    if digest.hexdigest() != name:
        return "does not match the digest that is its name"
    header = header_of(head)
    if rest or header is None or header[1] != size - header[2]:
        return "is not a git object"
    return None


def _compressed(whole: bytes) -> bytes:
    stream = zlib.compressobj(_FASTEST, zlib.DEFLATED, _WINDOW_BITS, _MEMORY_LEVEL)
    return stream.compress(whole) + stream.flush()


def _stands(git_dir: str, name: str, whole: bytes) -> bool:
    # Keep a sound file: replacing it would put at risk what is on the disk already. Replace a file that a
    # power cut has emptied.
    try:
        if read_loose(git_dir, name) != whole:
            return False
        # Otherwise `git gc` may remove it as old and unreachable.
        os.utime(path_of(git_dir, name))
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
        # git removes directories that are empty, even one that was just made.
        make_directory(git_dir, directory)
    raise FileNotFoundError(errno.ENOENT, os.strerror(errno.ENOENT), path)
