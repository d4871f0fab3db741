"""
One worker for several repositories: to each its own, whatever becomes of the others.
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

import pytest
from redis import Redis

from ferry.app.store.store import Store
from ferry.app.transact import transact
from ferry.worker.bootstrap import build
from ferry.worker.enqueue import PushQueue
from ferry.worker.pipeline import Pipeline
from tests.parts import CELERY, Bare, Process, wait_until

NAMES = ("county", "town", "village")


@dataclass
class Place:
    """
    One of the repositories, with what its API does.
    """

    data: Bare
    remote: Bare
    pipeline: Pipeline

    def write(self) -> str:
        queue = PushQueue(self.pipeline.celery, list(self.pipeline.settings.remotes))
        with transact(Store(self.pipeline.repository), queue, "x", author=("A", "a@b")) as transaction:
            transaction.upsert("people", {"slug": "jane", "name": f"Jane {self.data.head()}"})
        assert transaction.commit
        return transaction.commit

    def await_arrival(self, commit: str) -> None:
        wait_until(lambda: self.remote.head() == commit, what=f"{commit} on {self.remote.path}")


@pytest.fixture
def env(env: dict[str, str], own_valkey, tmp_path: Path) -> dict[str, str]:
    """
    The environment of a worker that serves three repositories.
    """
    common = {name: value for name, value in env.items() if not name.startswith("CFP_DATA_")}
    common["CFP_REDIS_URL"] = f"redis://127.0.0.1:{own_valkey.port}/0"
    return {**common, "CFP_DATA_REPOSITORIES": str(tmp_path / "repositories")}


@pytest.fixture
def places(env: dict[str, str], data: Bare, tmp_path: Path) -> dict[str, Place]:
    made = {}
    directory = Path(env["CFP_DATA_REPOSITORIES"])
    directory.mkdir()
    for name in NAMES:
        (tmp_path / name).mkdir()
        bare, remote = (
            Bare.copy(data.path, tmp_path / name / "data.git"),
            Bare.init(tmp_path / name / "remote.git"),
        )
        bare.git("config", "--unset", "ferry.id")
        own = {"CFP_DATA_REPO_PATH": str(bare.path), "CFP_DATA_REMOTE": str(remote.path)}
        (directory / f"{name}.env").write_text("".join(f"{key}={value}\n" for key, value in own.items()))
        made[name] = Place(bare, remote, build({**env, **own}, publisher=True))
    return made


def test_each_commit_reaches_the_remote_of_its_own_repository(worker, places):
    running = worker()
    commits = {name: place.write() for name, place in places.items()}

    for name, place in places.items():
        place.await_arrival(commits[name])
    wait_until(
        lambda: {(e["repository"], e["commit"]) for e in running.events("push.done")} >= set(commits.items()),
        what="a line for each",
    )


def test_a_retry_and_a_divergence_are_their_own_repositorys_affair(worker, places, sentry):
    """
    A retry comes back to its repository, a page says whose it is, and the others go on.
    """
    running = worker(SENTRY_DSN=sentry.dsn)
    wait_until(
        lambda: {done["repository"] for done in running.events("push.done")} == set(places),
        what="the first pushes",
    )
    town, village, county = places["town"], places["village"], places["county"]
    theirs = village.remote.commit("theirs")
    away = town.remote.path.rename(town.remote.path.with_suffix(".away"))

    town_commit, village_commit, county_commit = town.write(), village.write(), county.write()
    scheduled, blocked = running.await_event("push.retry_scheduled"), running.await_event("push.blocked")
    county.await_arrival(county_commit)
    running.await_event("push.retry_scheduled", count=2)
    away.rename(town.remote.path)
    town.await_arrival(town_commit)

    assert (scheduled["repository"], scheduled["commit"]) == ("town", town_commit)
    assert (blocked["repository"], blocked["commit"]) == ("village", village_commit)
    assert village.remote.head() == theirs
    pages = wait_until(
        lambda: [page for page in sentry.events if page["tags"]["reason"] == "non-fast-forward"]
    )
    assert [page["tags"]["repository"] for page in pages] == ["village"]
    assert pages[0]["fingerprint"][-1] == "village"


def test_sweeps_find_what_every_repository_waits_for(worker, beat, places, env):
    """
    All messages are lost: one worker and one beat bring everything there all the same.
    """
    commits = {name: place.write() for name, place in places.items()}
    Redis.from_url(env["CFP_REDIS_URL"]).flushall()
    running = worker()
    for name, place in places.items():
        place.await_arrival(commits[name])
    running.kill()

    later = {name: place.write() for name, place in places.items()}
    Redis.from_url(env["CFP_REDIS_URL"]).flushall()
    beat()
    again = worker()
    for name, place in places.items():
        place.await_arrival(later[name])
    assert not again.ended()


def test_two_workers_share_the_repositories_and_one_is_enough(worker, places):
    one, other = worker(), worker()
    one.kill()
    commits = {name: place.write() for name, place in places.items()}
    for name, place in places.items():
        place.await_arrival(commits[name])
    assert other.stop() == 0


def test_a_worker_with_a_wrong_file_says_which(places, env, tmp_path):
    (Path(env["CFP_DATA_REPOSITORIES"]) / "town.env").write_text("CFP_DATA_REPO_PATH=/nowhere\nCFP_X=1\n")
    worker = Process([*CELERY, "worker"], env, tmp_path / "wrong.log")
    worker.spawn()

    assert worker.wait() == 1
    assert worker.text().strip() == "ferry: town.env: CFP_X: unknown setting"


def test_each_repository_has_the_extensions_of_its_own_file(worker, places, env, tmp_path):
    """
    And each function that is called has the environment of its own repository.
    """
    text = """
import os
import ferry
{name} = ferry.Extension("{name}")

@{name}.after_commit
def told(commit):
    with open("told", "a") as file:
        print("{name}", os.environ["CFP_DATA_REPO_PATH"].split("/")[-2], commit.hash, file=file)
"""
    for name, extensions in {"town": "town", "village": "town village", "county": ""}.items():
        (tmp_path / f"{name}.py").write_text(text.format(name=name))
        with (Path(env["CFP_DATA_REPOSITORIES"]) / f"{name}.env").open("a") as file:
            file.write(f"CFP_API_EXTENSIONS='{extensions}'\n")
    worker()
    commits = {name: place.write() for name, place in places.items()}

    wanted = {("town", "town"), ("town", "village"), ("village", "village")}
    told, file = {(by, of, commits[of]) for by, of in wanted}, tmp_path / "told"
    wait_until(
        lambda: file.exists() and {tuple(line.split()) for line in file.read_text().splitlines()} == told
    )
    places["county"].await_arrival(commits["county"])
