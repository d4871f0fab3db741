"""
Notes that a remote may hold commits of others: one file for each remote, and another while that is looked at.
"""

from __future__ import annotations

import contextlib
from pathlib import Path

from ferry.worker.files.places import file_in


def noted(directory: Path, remote: str) -> Path:
    """
    Return the file of a nudge that no holder of the claim has taken.
    """
    return file_in(directory, f"{remote}.nudge")


def taken(directory: Path, remote: str) -> Path:
    """
    Return the file of one that is looked at, or whose look has failed or was killed.
    """
    return file_in(directory, f"{remote}.nudged")


def take(directory: Path, remote: str) -> bool:
    """
    Take what is noted; returns whether there is something to follow. For the claim's holder.
    """
    with contextlib.suppress(OSError):
        noted(directory, remote).replace(taken(directory, remote))
    return taken(directory, remote).exists()


def spend(directory: Path, remote: str) -> None:
    """
    Forget what was taken. For the claim's holder.
    """
    with contextlib.suppress(OSError):
        taken(directory, remote).unlink()
