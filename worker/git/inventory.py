"""
Checking that objects are complete, and reading many of them at once, with git.

``objects`` reads single objects in this process.
"""

from __future__ import annotations

import contextlib
import math
import os
import re
import time
from collections.abc import Iterator, Sequence
from itertools import chain
from typing import BinaryIO, cast

from ferry.worker.git.caches import mend
from ferry.worker.git.command import Git
from ferry.worker.git.history import WALK_TIMEOUT_S
from ferry.worker.process.talking import Talk

_ENDING_S = 2.0  # for git after its last answer
# Before each answer: hardly any file has it, so most answers are taken apart together, in half of the time.
_MARK = b"\1"
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
    return dict(chain.from_iterable(map(dict.items, read(git, names))))


def read(git: Git, names: Sequence[str], *, most: float = math.inf) -> Iterator[dict[str, bytes]]:
    """
    Yield the contents of the objects in *names*, full names, some at a time, while git reads the next; leave
    out those of more than *most* bytes, or that git cannot read.

    Raises:
        RepositoryError: git could not be started.
    """
    deadline = time.monotonic() + WALK_TIMEOUT_S
    done = 0
    with contextlib.suppress(TimeoutError):
        while done < len(names):
            talk = git.talk("cat-file", f"--batch={_MARK.decode()}%(objectsize)", "--buffer")
            talk.send("\n".join([*names[done:], ""]).encode(), last=True)
            try:
                for found, answered in _answers(talk, names, done, most, deadline):
                    done = answered
                    yield found
            except EOFError:  # git ends at the first damaged object
                done += not mend(git.path)
            finally:
                talk.finish(time.monotonic() + _ENDING_S)


def _answers(
    talk: Talk, names: Sequence[str], first: int, most: float, deadline: float
) -> Iterator[tuple[dict[str, bytes], int]]:
    """
    Yield the contents that git gives of *names* from the *first* on, and the number of the next name.
    """
    number = first
    while number < len(names):
        answer = talk.piece(deadline)
        contents, at = _whole(answer, most)
        found = dict(zip(names[number : number + len(contents)], contents, strict=True))
        number += len(contents)
        while at < len(answer) and number < len(names):
            while not (begin := answer.find(b"\n", at) + 1):
                answer += talk.piece(deadline)
            name, head = names[number], answer[at : begin - 1]
            number += 1
            if not head.startswith(_MARK):  # "NAME missing"
                at = begin
                continue
            size = int(head.removeprefix(_MARK))
            at = begin + size + 1
            missing = max(0, at - len(answer))
            if size <= most:
                answer += talk.read(missing, deadline)
                found[name] = answer[begin : at - 1]
            else:
                talk.skip(missing, deadline)
        yield found, number


def _whole(answer: bytes, most: float) -> tuple[list[bytes], int]:
    """
    Return the contents of all answers but the last, which may be cut off, and where that one begins. Return
    nothing if an object is missing, has more than *most* bytes, or has the mark in it.
    """
    before, *parts = answer.split(_MARK)
    if before or not parts:
        return [], 0
    last = parts.pop()
    answers = [part.partition(b"\n") for part in parts]
    try:
        if not all(int(size) == len(content) - 1 <= most for size, _, content in answers):
            return [], 0
    except ValueError:
        return [], 0
    return [content[:-1] for _, _, content in answers], len(answer) - len(last) - len(_MARK)


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
