"""
Run Ferry's decisions in simulated worlds, and print what happened in them.

Each world has the next seed. One that fails is shortened: the command that is printed last runs what is left
of it, and prints the same steps again.
"""

from __future__ import annotations

import argparse
import sys
import time
from random import SystemRandom

from tests.simulation.plants import PLANTS
from tests.simulation.run import Result, run, run_world
from tests.simulation.shorten import Short, shortened
from tests.simulation.world import KINDS

_MILLION = 1_000_000


def main() -> int:
    """
    Run the worlds, or look for planted faults; return the exit status.
    """
    arguments = argparse.ArgumentParser(description=__doc__)
    arguments.add_argument("--seed", type=int, default=SystemRandom().randrange(10**6))
    arguments.add_argument("--steps", type=int, default=_MILLION)
    arguments.add_argument(
        "--world", type=int, metavar="STEPS", help="run one world, in which so many may fail"
    )
    arguments.add_argument("--without", default="", metavar="KIND,KIND", help=f"of {', '.join(KINDS)}")
    arguments.add_argument("--plant", metavar="NAME", default="", choices=[*PLANTS, "all"], help="or: all")
    given = arguments.parse_args()
    without = tuple(filter(None, given.without.split(",")))
    if unknown := set(without) - set(KINDS):
        arguments.error(f"--without {','.join(sorted(unknown))}: it takes {', '.join(KINDS)}")
    if given.world:
        result = run_world(given.seed, given.world, given.plant, without)
        return _tell(Short(result, given.world, without, given.plant))
    if given.plant:
        return _find([*PLANTS] if given.plant == "all" else [given.plant], given.seed, given.steps)
    began = time.monotonic()
    result = run(given.seed, given.steps)
    _say(*_report(result, given.seed, time.monotonic() - began))
    return _tell(shortened(result)) if result.fault else 0


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
    return lines if result.fault else [*lines, "", "every promise held"]


def _tell(short: Short) -> int:
    """
    Print the last steps of a world that failed; return the exit status.
    """
    result = short.result
    if not result.fault:
        _say(f"{result.steps} steps: every promise held")
        return 0
    _say("", *result.trace, "", f"BROKEN: {result.fault}")
    _say(f"Again: make simulate SIMULATE_ARGS='{short.arguments}'")
    return 1


def _say(*lines: str) -> None:
    sys.stdout.write("\n".join([*lines, ""]))
    sys.stdout.flush()


if __name__ == "__main__":
    sys.exit(main())
