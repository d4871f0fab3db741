"""
What a broker may do to a running pipeline: restart, hang, drop connections, lose everything.
"""

from __future__ import annotations

import os
import signal
import time
from pathlib import Path

import pytest

from tests.parts import CELERY, Process, sample, wait_until
from tests.valkey_server import ValkeyServer


@pytest.fixture
def env(env, own_valkey):
    return {**env, "CFP_REDIS_URL": f"redis://127.0.0.1:{own_valkey.port}/0"}


class _Client:
    """
    Writes records with ever new slugs, and times each write.
    """

    def __init__(self, api):
        self._api = api
        self.commits = []
        self.slowest_s = 0.0

    def write(self):
        slug = f"visitor-{len(self.commits)}"
        begun = time.monotonic()
        response = self._api.post("/api/sheets/people/records", json={"slug": slug, "name": slug})
        self.slowest_s = max(self.slowest_s, time.monotonic() - begun)
        assert response.status_code == 201, response.json
        self.commits.append(response.json["commit"]["hash"])

    def status(self):
        return self._api.get("/api/_internal/push").json


@pytest.fixture
def deployment(client, worker, beat, remote):
    writer, running, sweeping = _Client(client()), worker(), beat()
    writer.write()
    wait_until(lambda: remote.head() == writer.commits[-1], what="the first commit on the remote")
    # A remote that is moved away under the end of a push would keep its locks.
    wait_until(lambda: writer.status()["remotes"]["origin"]["state"] == "idle", what="the end of its push")
    return writer, running, sweeping


def _restart(server):
    port = server.port
    os.kill(server.pid, signal.SIGKILL)
    wait_until(lambda: not server.is_running(), what="the end of the server")
    yield
    fresh = ValkeyServer(port=port)
    fresh.start()
    yield
    fresh.stop()


def _hang(server):
    os.kill(server.pid, signal.SIGSTOP)
    yield
    os.kill(server.pid, signal.SIGCONT)
    yield


def _drop_connections(server):
    server.client().execute_command("CLIENT", "KILL", "TYPE", "normal")
    yield
    server.client().execute_command("CLIENT", "KILL", "TYPE", "normal")
    yield


def _empty(server):
    server.client().flushall()
    yield
    server.client().flushall()
    yield


@pytest.mark.parametrize("fault", [_restart, _hang, _drop_connections, _empty])
def test_the_api_answers_and_the_worker_resumes_by_itself(deployment, own_valkey, remote, fault):
    """
    Commits made before, during and after the fault all arrive, with no further request.
    """
    writer, running, sweeping = deployment
    happening = fault(own_valkey)
    next(happening)
    for _ in range(4):
        writer.write()
    next(happening)

    wait_until(
        lambda: remote.head() == writer.commits[-1], timeout_s=60, what="what was written during the fault"
    )
    writer.write()
    wait_until(
        lambda: remote.head() == writer.commits[-1], timeout_s=60, what="what was written after the fault"
    )
    assert writer.slowest_s < 10, "a write waited for the broker"
    assert not running.ended()
    assert not sweeping.ended()
    wait_until(lambda: not writer.status()["sweep"]["late"], what="sweeps that go on")
    list(happening)


def test_a_retry_lost_with_the_broker_is_found_by_the_sweep(deployment, own_valkey, remote, tmp_path):
    """
    The countdown's message is gone, and so is the worker that held it: refs are
    compared, and the chain goes on.
    """
    writer, running, _ = deployment
    away = remote.path.rename(tmp_path / "away.git")
    writer.write()
    running.await_event("push.retry_scheduled", count=3)
    running.kill()
    own_valkey.client().flushall()
    running.spawn()
    attempts = len(running.events("push.failed"))
    running.await_event("push.failed", count=attempts + 2)

    away.rename(remote.path)
    wait_until(lambda: remote.head() == writer.commits[-1], what="the commit on the remote")


def test_a_missing_beat_shows_in_status_and_metrics_and_two_do_no_harm(deployment, env, client, beat, remote):
    writer, running, sweeping = deployment
    wait_until(lambda: not writer.status()["sweep"]["late"], what="a sweep")
    sweeping.kill()

    wait_until(lambda: writer.status()["sweep"]["late"], what="a sweep that is late")
    assert sample(client().get("/metrics").text, "ferry_sweep_late") == 1
    before = writer.status()["sweep"]["last_at"]

    beat(), beat()
    wait_until(lambda: writer.status()["sweep"]["last_at"] > before, what="a sweep")
    pushes = len(running.events("push.done"))
    writer.write()
    wait_until(lambda: remote.head() == writer.commits[-1], what="the commit on the remote")
    running.await_event("push.done", count=pushes + 1)
    assert len(running.events("push.done")) == pushes + 1
    assert sample(client().get("/metrics").text, "ferry_sweep_late") == 0


def test_no_countdown_ever_reaches_the_visibility_timeout(env):
    """
    Whatever cap, spacing or wait is set: a message that is redelivered while it waits would run twice.
    """
    from ferry.worker.broker.celery_app import build_celery
    from ferry.worker.settings import Settings

    for extra in ({}, {"CFP_PUSH_BACKOFF_CAP": "90000"}, {"CFP_PUSH_MIN_INTERVAL": "86400"}):
        settings = Settings.from_env({**env, **extra})
        celery = build_celery({"push.x": settings}, publisher=False)
        timeout_s = celery.conf.broker_transport_options["visibility_timeout"]
        assert timeout_s >= 2 * settings.push_longest_wait_s
        assert settings.push_longest_wait_s >= max(settings.push_backoff_cap_s, settings.push_min_interval_s)


def _replica(server):
    server.client().execute_command("REPLICAOF", "127.0.0.1", "1")
    return lambda: server.client().execute_command("REPLICAOF", "NO", "ONE")


def _without_replicas(server):
    server.client().config_set("min-replicas-to-write", 3)
    return lambda: server.client().config_set("min-replicas-to-write", 0)


def _full(server):
    server.client().config_set("maxmemory", 1)
    return lambda: server.client().config_set("maxmemory", 0)


def _without_disk(server):
    """
    Have a snapshot fail; the server takes no write until one succeeds.
    """
    redis = server.client()
    redis.config_set("save", "3600 1")
    path = Path(redis.config_get("dir")["dir"], redis.config_get("dbfilename")["dbfilename"])
    (path / "in-the-way").mkdir(parents=True)
    redis.bgsave()
    wait_until(lambda: redis.info("persistence")["rdb_last_bgsave_status"] == "err", what="its failure")
    return lambda: redis.config_set("save", "")


def test_a_broker_that_refuses_for_now_is_waited_for(deployment, env, own_valkey, remote):
    """
    Worker and beat stay, and start meanwhile too; commits arrive within seconds of the broker's return.
    """
    writer, *processes = deployment
    sweeping = processes[1]
    for refusal in (_replica, _without_replicas, _full, _without_disk):
        undo, known = refusal(own_valkey), len(writer.commits)
        writer.write()
        wait_until(lambda: sweeping.text().count("refuses for now") >= 2, what="beat, refused twice")
        if refusal is _without_disk:  # PING is refused as well, and so each new connection
            processes += [
                Process([*CELERY, name], env, processes[0].log_path.with_name(f"late-{name}"))
                for name in ("worker", "beat")
            ]
            for process in processes[2:]:
                process.spawn()
                wait_until(lambda p=process: p.logged("refuses for now"), what="one that starts, refused")
        undo()
        writer.write()
        assert len(writer.commits) == known + 2
        wait_until(lambda: remote.head() == writer.commits[-1], what="what was written meanwhile")
        for process in processes:
            assert not process.ended(), process.text()
        sweeping.log_path.write_text("")
    assert processes[0].logged("Connection to broker lost")
    assert writer.slowest_s < 10, "a write waited for the broker"
    for process in processes[2:]:
        process.kill()
