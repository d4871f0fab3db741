"""
Files of JSON lines that grow at the end, and are shortened from the front.

No decision depends on one: a line that cannot be written is left out, and one that cannot be read is skipped.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping, Sequence
from itertools import accumulate, takewhile
from pathlib import Path
from typing import Any, TypeVar

from ferry.worker.files.atomic_json import replace_file
from ferry.worker.files.sharing import inherit
from ferry.worker.observe.logs import log

T = TypeVar("T")

# Each line is appended; the file is shortened only once it is this much too long.
_SLACK_BYTES = 64 << 10


def append(path: Path, line: Mapping[str, Any], *, keep: int, line_bytes: int) -> None:
    """
    Add *line* to the file *path*. A line that another process adds while the file is shortened may be lost.

    Never raises: a full disk must not keep commits from leaving it.

    Args:
        keep: How many lines are kept at most.
        line_bytes: How many bytes a line has, mostly; if they are longer, fewer are kept.
    """
    try:
        with path.open("ab") as file:
            # A line that a full disk cut short must not take the next one with it.
            start = b"\n" if file.tell() else b""
            file.write(start + json.dumps(line).encode())
            if start == b"":
                inherit(file.fileno(), path.parent)
            size = file.tell()
        if size > keep * line_bytes + _SLACK_BYTES:
            newest = _newest(path.read_bytes().splitlines()[-keep:], keep * line_bytes)
            replace_file(path, b"\n".join(newest), durably=False)
    except OSError as exc:
        log().warning("history.write_failed", path=str(path), error=str(exc))


def _newest(lines: Sequence[bytes], most_bytes: int) -> list[bytes]:
    """
    Return the last of *lines*, at most *most_bytes* of them.
    """
    sizes = accumulate(len(line) + 1 for line in reversed(lines))
    count = sum(1 for _ in takewhile(lambda size: size <= most_bytes, sizes))
    return list(lines[len(lines) - count :])


def last(path: Path, read: Callable[[Mapping[str, Any]], T], *, keep: int) -> list[T]:
    """
    Return the last lines of the file *path*, oldest first, at most *keep*.

    Args:
        read: Makes a value of a line, or raises LookupError, TypeError or ValueError.
    """
    try:
        lines = path.read_bytes().splitlines()
    except OSError:
        return []
    found = []
    for line in lines[-keep:]:
        try:
            found.append(read(json.loads(line)))
        except (LookupError, TypeError, ValueError, RecursionError):
            continue
    return found
