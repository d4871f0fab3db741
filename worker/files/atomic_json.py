"""
Small files that are replaced atomically: a reader sees the old file or the new one.
"""

from __future__ import annotations

import contextlib
import json
import os
import uuid
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from ferry.worker.files.flushing import flush_directory
from ferry.worker.files.room import NO_ROOM
from ferry.worker.files.sharing import inherit

_PIECE_BYTES = 256
_NEW = os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC


def read_json(path: Path) -> dict[str, Any]:
    """
    Return the JSON object in *path*; an empty one if the file is missing or damaged.
    """
    try:
        value = json.loads(path.read_text("utf-8"))
    except (OSError, ValueError):
        return {}
    return value if isinstance(value, dict) else {}


def write_json(path: Path, value: dict[str, Any]) -> None:
    """
    Replace *path* by *value*. Does not flush: a power cut may lose the value.

    Raises:
        OSError: The disk refused; the old file is still there.
    """
    content = json.dumps(value).encode()
    # Room to grow, because on a full disk the next content is written over this one.
    replace_or_overwrite(path, content.ljust(-(-len(content) // _PIECE_BYTES) * _PIECE_BYTES), durably=False)


def replace_file(path: Path, content: bytes, *, durably: bool, private: bool = False) -> None:
    """
    Replace *path* by a file with *content*.

    Args:
        private: Whether only its owner may read it; else it gets the permissions of its directory.
        durably: Whether the new file survives a power cut from now on. Otherwise a power cut may leave the
            old file, the new file, or an empty one.

    Raises:
        OSError: It cannot be written; the old file is still there, unless only the last flush failed.
    """
    with _fresh(path, content, durably=durably, private=private) as fresh:
        os.replace(fresh, path)
    if durably:
        flush_directory(path.parent)


def create_file(path: Path, content: bytes) -> bool:
    """
    Make *path* a file with *content*, which survives a power cut; returns False where there is one already.

    Of several processes that do so at one time, one makes it, and no reader sees a part of it.

    Raises:
        OSError: It cannot be written.
    """
    try:
        with _fresh(path, content, durably=True) as fresh:
            os.link(fresh, path)
            os.unlink(fresh)
    except FileExistsError:
        return False
    flush_directory(path.parent)
    return True


@contextlib.contextmanager
def _fresh(path: Path, content: bytes, *, durably: bool, private: bool = False) -> Iterator[str]:
    """
    Yield a new file with *content* beside *path*, which the block gives that name; else it is removed.
    """
    fresh = f"{path}.{uuid.uuid4().hex}"  # no Path, see ``places.file_in``
    try:
        with open(os.open(fresh, _NEW, 0o600 if private else 0o666), "wb") as file:
            file.write(content)
            if not private:
                inherit(file.fileno(), path.parent)
            if durably:
                file.flush()
                os.fsync(file.fileno())
        yield fresh
    except OSError:
        with contextlib.suppress(OSError):
            os.unlink(fresh)
        raise


def replace_or_overwrite(path: Path, content: bytes, *, durably: bool) -> None:
    """
    Replace *path* by a file with *content*; on a full disk, overwrite *path* in place.

    While it is overwritten, a reader may see a mix of old and new content. Blanks fill the rest.

    Raises:
        OSError: The disk is full, and the old file is too short.
    """
    try:
        replace_file(path, content, durably=durably)
    except OSError as exc:
        if exc.errno not in NO_ROOM:
            raise
        _overwrite(path, content.rstrip(), exc)


def _overwrite(path: Path, content: bytes, full: OSError) -> None:
    with path.open("r+b", buffering=0) as file:
        length = os.fstat(file.fileno()).st_size
        if len(content) > length:
            raise full
        file.write(content.ljust(length))
        os.fsync(file.fileno())
