"""
Run Ferry's decisions in simulated worlds, and print what happened in them.

Each world has the next seed, so a failure comes again with the seed that it names.
"""

from __future__ import annotations

import argparse
import sys
import time
from random import SystemRandom

from tests.simulation.plants import PLANTS
from tests.simulation.run import Result, run

_MILLION = 1_000_000


def main() -> int:
    """
    Run the worlds, or look for planted faults; return the exit status.
    """
    arguments = argparse.ArgumentParser(description=__doc__)
    arguments.add_argument("--seed", type=int, default=SystemRandom().randrange(10**6))
    arguments.add_argument("--steps", type=int, default=_MILLION)
    arguments.add_argument("--plant", metavar="NAME", choices=[*PLANTS, "all"], help="or: all")
    given = arguments.parse_args()
    if given.plant:
        return _find([*PLANTS] if given.plant == "all" else [given.plant], given.seed, given.steps)
    began = time.monotonic()
    result = run(given.seed, given.steps)
    _say(*_report(result, given.seed, time.monotonic() - began))
    return 1 if result.fault else 0


def _find(names: list[str], seed: int, steps: int) -> int:
    """
    Print after how many steps each planted fault is found.
    """
    missed = 0
    for name in names:
        result = run(seed, steps, name)
        missed += not result.fault
        _say(f"{name:<48} {result.steps:>9} steps  {result.fault or 'NOT FOUND'}")
    return 1 if missed else 0


def _report(result: Result, seed: int, took_s: float) -> list[str]:
    lines = [f"seeds from {seed}, {result.worlds} worlds, {result.steps} steps, {took_s:.0f} s", ""]
    lines += [f"{name:<40} {count:>8}" for name, count in sorted(result.counts.items())]
    lines += [
        "",
        *(f"a remote at rest is {name:<20} {count:>8}" for name, count in sorted(result.states.items())),
    ]
    if result.fault:
        again = f'make simulate SIMULATE_ARGS="--seed {result.seed} --steps 1"'
        return [*lines, "", *result.trace, "", f"BROKEN: {result.fault}", f"Again: {again}"]
    return [*lines, "", "every promise held"]


def _say(*lines: str) -> None:
    sys.stdout.write("\n".join([*lines, ""]))
    sys.stdout.flush()


if __name__ == "__main__":
    sys.exit(main())
