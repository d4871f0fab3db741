"""
Ending process groups that Ferry has started, or itself with its parent; their priority, and recognising them.
"""

from __future__ import annotations

import contextlib
import ctypes
import os
import signal
import time
from pathlib import Path

TERM_GRACE_S = 2.0  # git removes its lock files on SIGTERM; a hung ssh ignores it
_GIVES_WAY = 10  # nice(1)
_PR_SET_PDEATHSIG = 1  # linux/prctl.h


def end_with_parent(number: int) -> None:
    """
    Have the kernel send the signal *number* to this process when its parent ends.
    """
    ctypes.CDLL(None).prctl(_PR_SET_PDEATHSIG, number)


def give_way(group: int) -> None:
    """
    Lower the priority of the process group *group*, so that pushes go first.
    """
    with contextlib.suppress(OSError):  # it has ended
        os.setpriority(os.PRIO_PGRP, group, _GIVES_WAY)
    with contextlib.suppress(OSError):
        # Outside of a container the kernel may schedule each session as a whole, and a process's priority
        # counts only within it (sched(7), "The autogroup feature").
        Path(f"/proc/{group}/autogroup").write_text(str(_GIVES_WAY))


def end_group(group: int) -> None:
    """
    End a process group that is not this process's child: by SIGTERM, then by SIGKILL.
    """
    signal_group(group, signal.SIGTERM)
    deadline = time.monotonic() + TERM_GRACE_S
    while time.monotonic() < deadline and is_running(group):
        time.sleep(0.02)
    signal_group(group, signal.SIGKILL)


def signal_group(group: int, number: int) -> bool:
    """
    Send a signal to a process group, 0 to send none; returns whether the group still exists.
    """
    try:
        os.killpg(group, number)
    except ProcessLookupError:
        return False
    return True


def is_running(group: int) -> bool:
    """
    Whether a process of *group* still runs.

    A zombie does not count, although the kernel keeps it in the group until its parent waits for it. The
    parent of an orphan is process 1, which may wait late, or never, in a container without an init.
    """
    if not signal_group(group, 0):
        return False
    stats = (_stat(str(process)) for process in Path("/proc").glob("[0-9]*"))
    states = [stat[0] for stat in stats if stat[2:3] == [str(group)]]
    return any(state not in "ZX" for state in states) if states else signal_group(group, 0)


def birth(process: int) -> str | None:
    """
    Return when a process started, in clock ticks since the boot; None if it has ended.
    """
    try:
        return _stat(f"/proc/{process}")[19]
    except IndexError:
        return None


def _stat(process: str) -> list[str]:
    """
    Return the fields of a process's ``stat`` from the third, its state, on; an empty list if it has ended.
    """
    # The fields follow the command's name, which may contain blanks and parentheses:
    # https://man7.org/linux/man-pages/man5/proc_pid_stat.5.html
    try:
        with open(f"{process}/stat", "rb") as stat:
            return stat.read().rpartition(b")")[2].decode("ascii").split()
    except OSError:
        return []
