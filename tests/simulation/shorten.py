"""
Shortening a world that failed: the same fault with fewer steps and fewer kinds of trouble.

What is left out changes what comes after it, so each attempt runs the world with the seed, and some after it.
"""

from __future__ import annotations

import re
from collections.abc import Collection, Iterator
from dataclasses import dataclass

from tests.simulation.run import STEPS, Result, run_world
from tests.simulation.world import KINDS

_WORLDS = 8
_DETAILS = re.compile(r"[0-9a-f]{7,}|[\d.]+|origin|mirror")


@dataclass(frozen=True, slots=True)
class Short:
    """
    A world that fails, and what it can do without.
    """

    result: Result
    steps: int
    without: tuple[str, ...]
    planted: str = ""

    @property
    def arguments(self) -> str:
        """
        What ``make simulate`` needs to run this world alone.
        """
        words = [f"--seed {self.result.seed} --world {self.steps}"]
        words += [f"--without {','.join(self.without)}"] if self.without else []
        words += [f'--plant "{self.planted}"'] if self.planted else []
        return " ".join(words)


def shortened(found: Result, planted: str = "", steps: int = STEPS) -> Short:
    """
    Leave out what *found* does not need; returns the world that is left.

    Args:
        planted: The fault of ``PLANTS`` that it ran with, or "".
        steps: How many of its steps might go wrong.
    """
    best = Short(found, steps, (), planted)
    for kind in KINDS:
        best = _first(best, best.steps, (*best.without, kind)) or best
    while best.steps > 50 and (shorter := _first(best, best.steps // 2, best.without)):
        best = shorter
    return best


def _first(known: Short, steps: int, without: tuple[str, ...]) -> Short | None:
    wanted = _kind(known.result.fault)
    for result in _worlds(known, steps, without):
        if _kind(result.fault) == wanted:
            return Short(result, steps, without, known.planted)
    return None


def _worlds(known: Short, steps: int, without: Collection[str]) -> Iterator[Result]:
    for seed in range(known.result.seed, known.result.seed + _WORLDS):
        yield run_world(seed, steps, known.planted, without)


def _kind(fault: str) -> str:
    """
    Return what was found, without what differs from world to world.
    """
    return _DETAILS.sub("", fault)
