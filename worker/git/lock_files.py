"""
git's lock files. git respects those that Ferry takes, and Ferry recognises its own.

git takes ``NAME.lock`` by creating it, and replaces NAME by renaming it. Ferry writes the new content to a
draft and makes the lock file a second name of that draft. So it recognises a lock file that one of its own
processes left when it was killed, and removes it. It never removes another program's.
"""

from __future__ import annotations

import contextlib
import os
import time
from pathlib import Path

from ferry.worker.files.flushing import flush
from ferry.worker.files.sharing import make_directories

_PAUSE_S = 0.01


class LockFileError(Exception):
    """
    Another program holds the lock file, or died while it held it.
    """


def take(git_dir: Path, lock: Path, draft: Path, *, wait_s: float) -> None:
    """
    Make *lock* a second name of *draft*; waits for another holder.

    Raises:
        LockFileError: Another program still holds it after *wait_s* seconds.
        OSError: The lock file cannot be made.
    """
    deadline = time.monotonic() + wait_s
    while True:
        try:
            os.link(draft, lock)
        except FileExistsError:
            if time.monotonic() >= deadline:
                raise LockFileError(
                    f"{lock} exists: another git process holds it, or died while it did. "
                    "If no git process runs on this repository, remove that file"
                ) from None
            time.sleep(_PAUSE_S)
        except FileNotFoundError:
            # It is the directory of a new ref; or git packed the refs in it and removed it as empty.
            if time.monotonic() >= deadline:
                raise
            with contextlib.suppress(FileNotFoundError):  # git removed it again
                make_directories(str(git_dir), lock.parent)
        else:
            return


def clear_left_over(draft: Path, lock: Path) -> None:
    """
    Remove the draft and the lock file that a killed process of Ferry left, once all that it wrote is on the
    disk.
    """
    if not draft.exists():
        return
    flush(draft.parent)
    with contextlib.suppress(FileNotFoundError):
        if lock.samefile(draft):
            lock.unlink()
    draft.unlink()
