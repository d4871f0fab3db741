"""
Ask Ferry at random, and hold every answer against a model of its promises.

Works on a new repository every thousand steps, each with the next seed, so a failure comes again with
the seed that it names.
"""

from __future__ import annotations

import argparse
import sys
import tempfile
import time
from collections import Counter
from pathlib import Path
from random import SystemRandom

from tests.model.driver import Driver, ModelError

EPISODE = 1000


def main() -> int:
    """
    Run the model, and print a table.
    """
    arguments = argparse.ArgumentParser(description=__doc__)
    arguments.add_argument("--seed", type=int, default=SystemRandom().randrange(10**6))
    arguments.add_argument("--steps", type=int, default=5000)
    given = arguments.parse_args()
    counts: Counter[str] = Counter()
    statuses: Counter[int] = Counter()
    began, seed, left, fault = time.monotonic(), given.seed, given.steps, ""
    while left > 0 and not fault:
        with tempfile.TemporaryDirectory(prefix="ferry-model-") as directory:
            driver = Driver(Path(directory), seed)
            try:
                driver.run(min(left, EPISODE))
            except ModelError as exc:
                fault = str(exc)
        counts, statuses = counts + driver.counts, statuses + driver.statuses
        seed, left = seed + 1, left - EPISODE
    lines = [
        f"seeds {given.seed} to {seed - 1}, {sum(counts.values())} steps, {time.monotonic() - began:.0f} s"
    ]
    lines += [f"{name:<12} {count:>7}" for name, count in counts.most_common()]
    lines += [f"{status:<12} {count:>7}" for status, count in sorted(statuses.items())]
    sys.stdout.write("\n".join([*lines, fault or "no answer differed", ""]))
    return 1 if fault else 0


if __name__ == "__main__":
    sys.exit(main())
