"""
Running worlds one after the other, on several processors, and adding up what happened in them.
"""

from __future__ import annotations

import itertools
import os
from collections import Counter
from collections.abc import Collection, Iterator
from concurrent.futures import FIRST_COMPLETED, ProcessPoolExecutor, wait
from dataclasses import dataclass, field

from tests.simulation.plants import plant
from tests.simulation.world import World

STEPS = 3000  # of the part with faults, in each world
_SHOWN = 70
# They change nothing.
_DULL = (": reads ", ": asks whether ")


@dataclass
class Result:
    """
    What came of one world, or of several.

    Attributes:
        steps: How many steps there were.
        counts: Faults, outcomes and what people did, by kind.
        states: How often a remote was found in each state.
        seed: The seed of the world that failed.
        fault: What it found, or "".
        trace: Its last steps.
    """

    steps: int = 0
    worlds: int = 0
    counts: Counter[str] = field(default_factory=Counter)
    states: Counter[str] = field(default_factory=Counter)
    seed: int = 0
    fault: str = ""
    trace: list[str] = field(default_factory=list)

    def add(self, other: Result) -> None:
        self.steps += other.steps
        self.worlds += other.worlds
        self.counts += other.counts
        self.states += other.states
        if other.fault and (not self.fault or other.seed < self.seed):
            self.seed, self.fault, self.trace = other.seed, other.fault, other.trace


def run_world(seed: int, steps: int = STEPS, planted: str = "", without: Collection[str] = ()) -> Result:
    """
    Run one world.

    Args:
        steps: How many steps may go wrong.
        planted: A fault of ``PLANTS``, or "".
        without: Which of ``KINDS`` do not happen.
    """
    world, fault = World(seed, without=without), ""
    with plant(planted):
        try:
            world.run(steps)
        except Exception as exc:  # noqa: BLE001 - an exception that Ferry does not expect is a find, too
            fault = str(exc) if isinstance(exc, AssertionError) else f"{type(exc).__name__}: {exc}"
    trace = [line for line in world.machine.trace if not any(dull in line for dull in _DULL)][-_SHOWN:]
    return Result(
        world.machine.steps,
        1,
        world.machine.counts,
        Counter(world.invariants.states),
        seed,
        fault,
        trace if fault else [],
    )


def run(seed: int, steps: int, planted: str = "") -> Result:
    """
    Run worlds with *seed* and those after it, until *steps* are done or one has failed.
    """
    total = Result()
    for result in _results(seed, steps, planted):
        total.add(result)
        if total.fault or total.steps >= steps:
            break
    return total


def _results(seed: int, steps: int, planted: str) -> Iterator[Result]:
    """
    Yield the results of the worlds, as they come.
    """
    jobs = 1 if steps < 50_000 else len(os.sched_getaffinity(0))
    if jobs == 1:
        yield from (run_world(each, planted=planted) for each in itertools.count(seed))
        return
    seeds = itertools.count(seed)
    with ProcessPoolExecutor(jobs) as pool:
        try:
            running = {pool.submit(run_world, next(seeds), STEPS, planted) for _ in range(2 * jobs)}
            while True:
                done, running = wait(running, return_when=FIRST_COMPLETED)
                running |= {pool.submit(run_world, next(seeds), STEPS, planted) for _ in done}
                yield from (each.result() for each in done)
        finally:
            pool.shutdown(cancel_futures=True)
