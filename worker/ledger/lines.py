"""
Files of JSON lines: new lines are appended, and old ones removed from the front.

No decision depends on them: a line that cannot be written is dropped, and one that cannot be read is skipped.
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

# The file is shortened only when it is longer than allowed by this much.
_SLACK_BYTES = 64 << 10


def append(path: Path, line: Mapping[str, Any], *, keep: int, line_bytes: int) -> None:
    """
    Add *line* to the file *path*. A line that another process adds while the file is shortened may be lost.

    Never raises: a full disk must not stop pushes.

    Args:
        keep: How many lines are kept at most.
        line_bytes: Usual length of a line in bytes; of longer lines, fewer are kept.
    """
    try:
        with path.open("ab") as file:
            # If a full disk truncated the last line, the new one must begin on a line of its own.
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
    Return the last of *lines*, together at most *most_bytes* long.
    """
    sizes = accumulate(len(line) + 1 for line in reversed(lines))
    count = sum(1 for _ in takewhile(lambda size: size <= most_bytes, sizes))
    return list(lines[len(lines) - count :])


def last(path: Path, read: Callable[[Mapping[str, Any]], T], *, keep: int) -> list[T]:
    """
    Return the last lines of the file *path*, oldest first, at most *keep*.

    Args:
        read: Converts a line to a value, or raises LookupError, TypeError or ValueError.
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
