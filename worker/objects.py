"""
git's objects, read in this process.

gitsheets opens the repository anew for each question, a tenth of a millisecond and
more. What was written lately stands in a file of its own, and is read from there
(https://git-scm.com/book/en/v2/Git-Internals-Git-Objects).
"""

from __future__ import annotations

import re
import zlib

import gitsheets

_PARENT = re.compile(rb"^parent ([0-9a-f]+)$", re.MULTILINE)


def read_loose(git_dir: str, name: str) -> bytes:
    """
    Return kind, size and content of an object that stands in a file of its own, as that file has them.

    Raises:
        OSError: There is no such file.
        zlib.error: It is damaged.
    """
    with open(f"{git_dir}/objects/{name[:2]}/{name[2:]}", "rb") as file:
        return zlib.decompress(file.read())


def read(git_dir: str, name: str) -> bytes:
    """
    Return the content of an object.

    Args:
        name: Its full name.

    Raises:
        gitsheets.GitsheetsError: It is missing or damaged.
    """
    try:
        return read_loose(git_dir, name).partition(b"\0")[2]
    except (OSError, zlib.error):
        content = gitsheets.blob_read(git_dir, name)  # from a pack; or it says what is wrong
    if content is None:
        raise gitsheets.GitsheetsError(f"the object {name} is missing; look with: git fsck")
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


def lineage(git_dir: str, old: str, new: str, *, longest: int) -> list[str]:
    """
    Return the commits from *new* to before *old*, newest first, where each has one parent; else none.

    Args:
        longest: How many commits to look at.
    """
    found: list[str] = []
    try:
        while new != old:
            parents = _PARENT.findall(read(git_dir, new).partition(b"\n\n")[0])
            found.append(new)
            if len(parents) != 1 or len(found) > longest:
                return []
            new = parents[0].decode("ascii")
    except gitsheets.GitsheetsError:
        return []
    return found
