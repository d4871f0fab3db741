"""
The drill: a primary is killed under load, a replica takes its place, and every commit is accounted for.
"""

from __future__ import annotations

import http.client
import json
import random
import threading

from ferry.worker.repair.fence import is_fenced
from tests.integration.test_server import PEOPLE, _start
from tests.parts import Bare, wait_until

REPLICAS, WRITERS = 2, 3


class _Writers:
    """
    Clients who write to a primary until it answers no more, and remember what it has acknowledged.
    """

    def __init__(self, primary) -> None:
        self.acknowledged: list[str] = []
        self._primary = primary
        self._threads = [threading.Thread(target=self._write, args=(each,)) for each in range(WRITERS)]
        for thread in self._threads:
            thread.start()

    def _write(self, who: int) -> None:
        for number in range(10_000):
            try:
                status, body = self._primary.put(f"w{who}-{number}")
            except (OSError, http.client.HTTPException):  # killed before or in its answer
                return
            if status != 201:
                return
            self.acknowledged.append(json.loads(body)["commit"]["hash"])

    def end(self) -> None:
        for thread in self._threads:
            thread.join(60)
            assert not thread.is_alive()


def _commits(there: Bare, *refs: str) -> set[str]:
    return set(there.git("rev-list", *refs).split())


def test_a_primary_that_dies_under_load_is_replaced_and_each_commit_is_accounted_for(
    env, data, remote, worker, ferry, tmp_path
):
    """
    What origin had is in the branch; what only the dead primary's disk had is on a rescue branch, once that
    one is back.
    """
    enough = random.randrange(10, 40)  # noqa: S311 - the moment, in commits
    data.git("push", "--quiet", remote.path, "main:main")
    started = []

    def start(name, **more):
        place = tmp_path / name
        place.mkdir()
        started.append(_start({**env, **more}, place))
        return started[-1]

    try:
        primary, pushing = start("old"), worker()
        settings = {
            "CFP_API_ROLE": "replica",
            "CFP_API_PRIMARY_URL": f"http://127.0.0.1:{primary.port}",
            "CFP_DATA_FOLLOW_INTERVAL": "1",
        }
        paths = [str(tmp_path / f"replica-{number}.git") for number in range(REPLICAS)]
        for path in paths:
            assert ferry("init", **settings, CFP_DATA_REPO_PATH=path).returncode == 0
        replicas = [start(f"r{n}", **settings, CFP_DATA_REPO_PATH=path) for n, path in enumerate(paths)]
        writers = _Writers(primary)
        wait_until(lambda: len(writers.acknowledged) >= enough, what=f"{enough} commits", timeout_s=90)
        primary.process.kill()
        pushing.kill()
        writers.end()
        had = _commits(remote, "main")

        done = ferry("promote", **settings, CFP_DATA_REPO_PATH=paths[0])
        assert done.returncode == 0, done.stderr
        assert "does not answer" in done.stdout
        assert had <= _commits(remote, "main")

        replicas[0].process.kill()
        new = start("new", CFP_DATA_REPO_PATH=paths[0])
        worker(CFP_DATA_REPO_PATH=paths[0])
        status, body = new.put("after")
        assert status == 201, body
        at_least = {"X-Ferry-At-Least": json.loads(body)["commit"]["hash"]}
        for each in replicas[1:]:
            path = f"{PEOPLE}/after"
            wait_until(
                lambda each=each, path=path: each.ask(path, timeout_s=30, **at_least)[0] == 200,
                what="a replica",
                timeout_s=90,
            )

        back = start("back")
        worker()
        wait_until(lambda: is_fenced(data.path), what="the old primary to find the fence", timeout_s=90)
        assert back.put("too-late")[0] == 403
        acknowledged = set(writers.acknowledged)
        wait_until(lambda: acknowledged <= _commits(remote, "--all"), what="what origin lacked", timeout_s=90)
        assert had <= _commits(remote, "main")
        rescued = acknowledged - _commits(remote, "main")
        refs = remote.git("for-each-ref", "--format=%(refname:short)", "refs/heads/rescue").split()
        assert rescued <= (_commits(remote, *refs) if refs else set())
    finally:
        for each in started:
            each.end()
