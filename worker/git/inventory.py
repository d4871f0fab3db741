"""
Checking that objects are complete, and reading many of them at once, with git.

``objects`` reads single objects in this process.
"""

from __future__ import annotations

import os
import re
from collections.abc import Sequence
from typing import BinaryIO, cast

from ferry.worker.git.command import Git
from ferry.worker.git.history import WALK_TIMEOUT_S

_LISTED = re.compile(rb"100[0-7]{3} blob ([0-9a-f]+)\t([^\0]+)\0")


def named(git: Git, prefix: str) -> list[str]:
    """
    Return the full names of the objects whose names begin with *prefix*, at least four digits.

    Raises:
        RepositoryError: git failed.
    """
    return git.query("rev-parse", f"--disambiguate={prefix}").split()


def is_whole(git: Git, commit: str, *, known: str | None = None) -> bool | None:
    """
    Whether every object of *commit* and its ancestors is here; None: git took more than five minutes.

    Args:
        known: An ancestor of *commit* that is known to be complete.

    Raises:
        RepositoryError: git could not be started.
    """
    left_out = [f"^{known}"] if known else []
    walk = ("rev-list", "--objects", "--quiet", commit, *left_out, "--")
    found = git.run(*walk, timeout_s=WALK_TIMEOUT_S)
    return None if found.exit_status is None else found.exit_status == 0


def check(git: Git, *, timeout_s: float) -> None:
    """
    Read every object and check it against its name.

    Raises:
        RepositoryError: An object is missing or damaged.
    """
    git.query("fsck", "--full", "--strict", "--no-dangling", "--no-progress", timeout_s=timeout_s)


def bytes_between(git: Git, old: str | None, new: str) -> int:
    """
    Estimate how many bytes a push of *new* sends to a remote that has *old*.

    Raises:
        RepositoryError: git failed.
    """
    known = [f"^{old}"] if old else []
    asked = ("rev-list", "--objects", "--disk-usage", new, *known, "--")
    return int(git.query(*asked, timeout_s=WALK_TIMEOUT_S))


def sizes(git: Git, names: Sequence[str]) -> dict[str, int]:
    """
    Return the size in bytes of each object in *names*, without those that git cannot find.

    Raises:
        RepositoryError: git could not be started.
    """
    answer = zip(names, _batch(git, "--batch-check=%(objectsize)", names).splitlines(), strict=False)
    return {name: int(size) for name, size in answer if size.isdigit()}


def contents(git: Git, names: Sequence[str]) -> dict[str, bytes]:
    """
    Return the content of each object in *names*, full names, without those that git cannot read.

    Raises:
        RepositoryError: git could not be started.
    """
    answer = _batch(git, "--batch=%(objectsize)", names)
    found, at = {}, 0
    for name in names:
        begin = answer.find(b"\n", at) + 1
        size = answer[at : begin - 1]  # or "NAME missing"
        at = begin + int(size) + 1 if size.isdigit() else begin
        if not begin or at > len(answer):
            break  # git ends at the first damaged object
        if size.isdigit():
            found[name] = answer[begin : at - 1]
    return found


def files(git: Git, tree: str) -> dict[str, str]:
    """
    Return the object of each regular file of *tree* whose path is UTF-8, by its path.

    Raises:
        RepositoryError: git failed.
    """
    command = ("ls-tree", "-r", "-z", "--full-tree", tree)
    with open(os.memfd_create("listed"), "w+b") as listed:
        git.answer(git.run(*command, timeout_s=WALK_TIMEOUT_S, stdout=cast(BinaryIO, listed)), *command)
        listed.seek(0)
        found = _LISTED.findall(listed.read())
    pairs = ((_utf8(path), name.decode("ascii")) for name, path in found)
    return {path: name for path, name in pairs if path is not None}


def _utf8(path: bytes) -> str | None:
    try:
        return path.decode("utf-8")
    except UnicodeDecodeError:
        return None


def _batch(git: Git, option: str, names: Sequence[str]) -> bytes:
    # In memory, because the disk may be full.
    with (
        open(os.memfd_create("names"), "w+b") as wanted,
        open(os.memfd_create("said"), "w+b") as answered,
    ):
        wanted.write("".join(f"{name}\n" for name in names).encode())
        wanted.seek(0)
        git.run(
            "cat-file", option, "--buffer", timeout_s=WALK_TIMEOUT_S,
            stdin=cast(BinaryIO, wanted), stdout=cast(BinaryIO, answered),
        )  # fmt: skip
        answered.seek(0)
        return answered.read()
