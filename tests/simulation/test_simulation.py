"""
That Ferry's promises hold in some simulated worlds; `make simulate` runs a million steps.
"""

from __future__ import annotations

import pytest

from tests.simulation.run import run, run_world
from tests.simulation.shorten import shortened
from tests.simulation.world import World


@pytest.mark.parametrize("seed", range(1, 7))
def test_every_promise_holds_in_a_world_where_much_goes_wrong(seed: int):
    result = run_world(seed, 2000)
    assert not result.fault, "\n".join([*result.trace, result.fault])


def test_a_seed_does_the_same_again():
    worlds = [World(7), World(7)]
    for world in worlds:
        world.run(1000)
    assert worlds[0].machine.trace == worlds[1].machine.trace
    assert worlds[0].machine.counts == worlds[1].machine.counts


@pytest.mark.parametrize(
    "name",
    [
        "a claim is released before its block",
        "a page is sent at each failure",
        "a retry's message is not sent",
        "the tracking ref moves before the push",
    ],
)
def test_a_planted_fault_is_found(name: str):
    assert run(100, 40_000, name).fault


def test_a_world_that_fails_is_shortened_and_the_short_one_fails_again():
    found = run(1, 40_000, name := "a claim is released before its block")
    short = shortened(found, name)
    again = run_world(short.result.seed, short.steps, name, short.without)
    assert "kill" in short.without  # two pushes overlap whether or not a process dies
    assert short.steps < 1000
    assert (again.fault, again.trace) == (short.result.fault, short.result.trace)
    assert f"--seed {short.result.seed} --world {short.steps} --without kill" in short.arguments
