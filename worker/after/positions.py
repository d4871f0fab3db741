"""
How far the functions of each extension have come: a small file for each, flushed after every call.

They are beside the entries of the ledger. A position is what is done: for commits, the tips of all that was
told. That may be several where branches were merged, and a call was the last before a crash. While nothing
waits it is one.
"""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path

from ferry.worker.after.hooks import Hook
from ferry.worker.errors import PositionError
from ferry.worker.files.atomic_json import create_file, replace_or_overwrite
from ferry.worker.files.places import remotes_directory

Position = tuple[str, ...]
_BYTES = 512  # on a full disk, the next one is written over this one


class Positions:
    """
    The positions in one repository.

    Args:
        repository: The bare repository's directory.
    """

    def __init__(self, repository: Path) -> None:
        self._directory = remotes_directory(repository)

    def path(self, hook: Hook) -> Path:
        """
        Return the file with the position of *hook*.
        """
        return self._directory / f"{hook.entry}.position"

    def asked(self, hook: Hook) -> Path:
        """
        Return the file that is there while a task is on its way that calls the functions of *hook*.
        """
        return self._directory / f"{hook.entry}.asked"

    def read(self, hook: Hook) -> Position | None:
        """
        Return the position of *hook*; None if it has none yet.

        Raises:
            PositionError: There is one, and it cannot be read.
        """
        path = self.path(hook)
        try:
            found = json.loads(path.read_text("utf-8"))
        except FileNotFoundError:
            return None
        except (OSError, ValueError) as exc:
            raise _unreadable(path, exc) from exc
        if not isinstance(found, list) or not all(isinstance(each, str) for each in found):
            raise _unreadable(path, "it is no list of names")
        return tuple(found)

    def begin(self, hook: Hook, position: Sequence[str]) -> Position:
        """
        Give *hook* its first position, unless another process has done so meanwhile; returns the one it has.

        Raises:
            PositionError: That cannot be read.
            OSError: The disk refused; there is none.
        """
        if create_file(self.path(hook), _content(position)):
            return tuple(position)
        return self.read(hook) or ()

    def write(self, hook: Hook, position: Sequence[str]) -> None:
        """
        Replace the position of *hook*. It is on the disk when this returns.

        Raises:
            OSError: The disk refused; the old position is still there.
        """
        replace_or_overwrite(self.path(hook), _content(position), durably=True)


def _content(position: Sequence[str]) -> bytes:
    content = json.dumps([*position]).encode()
    return content.ljust(-(-len(content) // _BYTES) * _BYTES)


def _unreadable(path: Path, why: object) -> PositionError:
    return PositionError(
        f'cannot read {path}: {why}; remove it to begin at the present tip, or write ["COMMIT"] into it, '
        "the last commit that is done"
    )
