"""
That the simulation's model of git answers as git does, on random histories.
"""

from __future__ import annotations

import subprocess
from pathlib import Path
from random import Random

import pytest

from ferry.worker.git.repository import Repository
from tests.parts import Bare
from tests.simulation.hosts import MAIN, Host, Network
from tests.simulation.machine import Disk, Machine
from tests.simulation.repository import Commits, DataRepository, Store

_COMMITS = 24
_IDENTITY = ("-c", "user.name=Ann", "-c", "user.email=ann@example.org")


def _git(path: Path, *arguments: str) -> str:
    done = subprocess.run(
        ["git", "-C", str(path), *_IDENTITY, *arguments], capture_output=True, text=True, timeout=30
    )
    return done.stdout.strip() if done.returncode == 0 else f"failed: {done.stderr}"


@pytest.mark.parametrize("seed", [1, 2])
def test_the_model_answers_as_git_does(data: Bare, remote: Bare, seed: int):
    """
    Ancestors, ranges, first parents, merge bases, and which pushes are a fast-forward.
    """
    random = Random(seed)  # noqa: S311 - a test's
    machine = Machine(random)
    commits, names = Commits(seed), []
    store = Store(commits, Disk(machine))
    tree = _git(data.path, "rev-parse", "main^{tree}")
    for number in range(_COMMITS):
        parents = random.sample(range(number), min(number, random.choice([1, 1, 1, 2])))
        options = [option for parent in parents for option in ("-p", names[parent])]
        names.append(_git(data.path, "commit-tree", tree, "-m", f"commit {number}", *options))
        commits.add(*parents, author="ann", at=float(number), touches=None)
    store.objects = (1 << _COMMITS) - 1
    model = DataRepository(store.disk, store, {})
    real = Repository(data.path, branch="main")

    def told(found: list[str]) -> set[int]:
        return {names.index(name) for name in found}

    def modelled(found: list[str]) -> set[int]:
        return {commits.numbers[name] for name in found}

    for _ in range(40):
        one, other = random.choices(range(_COMMITS), k=2)
        a, b = names[one], names[other]
        x, y = commits.names[one], commits.names[other]
        assert model.contains(x, y) == real.contains(a, b)
        assert modelled(model.commits_between(x, y)) == told(real.commits_between(a, b))
        assert model.count_between(x, y) == real.count_between(a, b)
        assert modelled(model.merge_bases(x, y)) == told(real.merge_bases(a, b))
        line = model.commits_between(x, y, first_parents=True)
        assert modelled(line) == told(real.commits_between(a, b, first_parents=True))

    host = Host("origin", commits)
    network = Network(machine, store, {})
    for _ in range(12):
        number = random.randrange(_COMMITS)
        modelled_line = network._land(host, MAIN, number)
        said = _git(data.path, "push", "--porcelain", str(remote.path), f"{names[number]}:{MAIN}")
        assert modelled_line.startswith("!") == said.startswith("failed"), (modelled_line, said)
        assert host.tip is not None
        assert names[host.tip] == remote.head()
