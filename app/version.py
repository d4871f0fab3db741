"""
Which Ferry this is: the version of the distribution, and the git commit that it was built from.
"""

from __future__ import annotations

import os
from dataclasses import dataclass
from functools import cache
from pathlib import Path

from ferry.worker.process.running import run

REVISION_VARIABLE = "FERRY_REVISION"  # the image's build sets it
UNKNOWN = "unknown"
_CHECKOUT = Path(__file__).resolve().parents[1]
_TIMEOUT_S = 2.0


@dataclass(frozen=True, slots=True, kw_only=True)
class Build:
    """
    What tells one build of Ferry from another.

    Attributes:
        version: Of the distribution, such as ``0.1.0``.
        revision: Full hash of the commit; ``unknown`` outside of an image and a checkout.
    """

    version: str
    revision: str

    def __str__(self) -> str:
        return f"{self.version} (revision {self.revision})"


@cache
def this_build() -> Build:
    """
    Return the build that this process runs, as it was when first asked for. Never fails.
    """
    from ferry import __version__  # out of the distribution's metadata, which takes 20 ms to read

    given = os.environ.get(REVISION_VARIABLE, "")
    return Build(version=__version__, revision=given if given not in ("", UNKNOWN) else _checked_out())


def _checked_out() -> str:
    """
    Return the commit that is checked out, where this file is part of a checkout.
    """
    # An installed file may lie inside another project's checkout, whose commit says nothing of Ferry.
    if not (_CHECKOUT / ".git").exists() or not (_CHECKOUT / "ferry" / "app").is_symlink():
        return UNKNOWN
    env = {"PATH": os.environ.get("PATH", os.defpath), "LC_ALL": "C"}
    try:
        found = run(["git", "rev-parse", "HEAD"], timeout_s=_TIMEOUT_S, env=env, directory=_CHECKOUT)
    except OSError:  # no git, or no process to run it in
        return UNKNOWN
    return found.stdout.strip() if found.exit_status == 0 else UNKNOWN
