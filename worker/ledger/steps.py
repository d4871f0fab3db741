"""
The step that the holder of a remote's claim is at, in the file that it has locked.

It is overwritten in place, which takes a tenth of the time of a write of the entry, and needs no room on a
full disk. So a push is noted here before it begins; see ``Claim.pushing``.
"""

from __future__ import annotations

import os
import socket
import uuid
from dataclasses import dataclass
from pathlib import Path

from ferry.worker.ledger.entry import Running

_BYTES = 256


@dataclass(frozen=True, slots=True, kw_only=True)
class Step:
    """
    The step that the holder of a claim recorded last.

    Attributes:
        name: Unique for each step.
        takes_s: Seconds that the step may take.
        holder: The process, in words.
        running: The push that runs in this step.
    """

    name: str
    takes_s: float
    holder: str
    running: Running | None = None


def note(path: Path, takes_s: float, running: Running | None) -> bool:
    """
    Record the begin of a step of this process; returns whether that was stored.
    """
    text = f"{uuid.uuid4().hex} {takes_s:.1f} process {os.getpid()} on {socket.gethostname()}\n"
    if running is not None:
        text += f"{running.group} {running.born} {running.host}\n"
    content = text.encode("ascii", "replace").ljust(_BYTES)
    try:
        with path.open("r+b", buffering=0) as file:
            return file.write(content) == len(content)
    except OSError:
        return False


def last(path: Path) -> Step | None:
    """
    Return the last step that was recorded; None if it cannot be read.
    """
    try:
        step, push, *_ = f"{path.read_text('ascii')}\n\n".split("\n")
        name, takes_s, holder = step.split(maxsplit=2)
        return Step(name=name, takes_s=float(takes_s), holder=holder, running=_running(push.split()))
    except (OSError, ValueError):
        return None


def _running(words: list[str]) -> Running | None:
    if len(words) != 3:  # none; or the program had ended before it could be described
        return None
    group, born, host = words
    return Running(host=host, group=int(group), born=born)
