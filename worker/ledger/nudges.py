"""
Notes for the holder of a remote's claim, each an empty file.

A nudge says that the remote may hold commits of others: one file for each remote, and another while that is
looked at. A request says that an operator asked for a push.
"""

from __future__ import annotations

import contextlib
from pathlib import Path

from ferry.worker.files.places import file_in
from ferry.worker.observe.logs import log


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


def requested(directory: Path, remote: str) -> Path:
    """
    Return the file of an operator's request that met a held claim.
    """
    return file_in(directory, f"{remote}.asked")


def note(path: Path, remote: str) -> bool:
    """
    Make one of these files; returns whether it is stored. Needs no claim.
    """
    try:
        path.touch()
    except OSError as exc:
        log().warning("ledger.write_failed", remote=remote, error=str(exc))
        return False
    return True


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


def take_request(directory: Path, remote: str) -> bool:
    """
    Take an operator's request; returns whether there was one.
    """
    try:
        requested(directory, remote).unlink()
    except OSError:
        return False
    return True
