"""
Signals to each process and to the whole group: pushes finish, requests finish, nothing is lost.
"""

from __future__ import annotations

import json
import os
import re
import shutil
import signal
import sys
import threading
import urllib.request
from pathlib import Path

import psutil
import pytest
import redis

from ferry.app.dev.stack import free_port
from ferry.worker.bootstrap import build
from tests.parts import Process, wait_until


@pytest.fixture
def held_push(request, env, client, worker, remote, tmp_path):
    """
    A worker in the middle of a push, held by a hook; yields it, the commit, and what lets the push go on.
    """
    env["CFP_PUSH_EXPRESS"] = getattr(request, "param", "on")
    started, go_on = tmp_path / "started", tmp_path / "go-on"
    api, running = client(), worker()
    wait_until(lambda: api.get("/api/_internal/push").json["remotes"]["origin"]["state"] == "idle")
    remote.hook("pre-receive", f"touch {started}; while [ ! -e {go_on} ]; do sleep 0.05; done")
    commit = api.post("/api/sheets/people/records", json={"slug": "jane", "name": "Jane"}).json["commit"][
        "hash"
    ]
    wait_until(started.exists, what="a push in the middle")
    return running, commit, go_on


@pytest.mark.parametrize("group", [False, True], ids=["process", "group"])
@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
def test_a_push_that_runs_completes(held_push, remote, number, group):
    running, commit, go_on = held_push

    running.signal(number, group=group)
    wait_until(lambda: running.logged("Warm shutdown"), what="a shutdown that has begun")
    assert not running.ended()
    go_on.touch()

    # Celery's own: 1 for a shutdown by SIGINT.
    assert running.wait() == (0 if number == signal.SIGTERM else 1)
    assert remote.head() == commit
    assert running.events("push.done")[-1]["commit"] == commit


def test_a_pool_process_that_is_told_to_end_finishes_its_push_first(held_push, remote):
    """
    The worker goes on with a new one, and pushes what comes next.
    """
    running, commit, go_on = held_push
    pool = psutil.Process(running.pid).children()
    assert pool
    for process in pool:
        process.terminate()
    go_on.touch()

    wait_until(lambda: remote.head() == commit, what="the commit on the remote")
    assert running.await_event("push.done", count=2)["commit"] == commit
    assert not running.ended()


def test_a_message_that_an_idle_process_was_just_sent_is_worked_off_or_goes_back(env, client, worker, remote):
    """
    Where a signal to the whole group ends that process first, the main one must not wait for its answer.

    Celery's warm shutdown discards what no process has accepted, and leaves that message to the broker.
    """
    api, running = client(), worker()
    wait_until(lambda: api.get("/api/_internal/push").json["remotes"]["origin"]["state"] == "idle")
    broker = redis.Redis.from_url(env["CFP_REDIS_URL"])
    queue = build(env, publisher=True).queue
    unacked = f"{queue}.unacked"
    wait_until(lambda: broker.hlen(unacked) == 0, what="idle processes")
    pool = running.children()
    for process in pool:
        process.suspend()
    written = api.post("/api/sheets/people/records", json={"slug": "jane", "name": "Jane"})
    wait_until(lambda: broker.hlen(unacked), what="a message on its way")

    running.signal(signal.SIGTERM, group=True)
    wait_until(lambda: running.logged("Warm shutdown"), what="a shutdown that has begun")
    for process in pool:
        process.resume()

    assert running.wait() == 0
    assert broker.hlen(unacked) == 0
    assert remote.head() == written.json["commit"]["hash"] or broker.llen(queue) == 1


def test_a_packing_that_runs_keeps_no_worker_from_stopping(env, client, worker, tmp_path):
    """
    It may take minutes, and while the worker stops nothing is pushed.
    """
    git, started = tmp_path / "bin" / "git", tmp_path / "started"
    git.parent.mkdir()
    git.write_text(
        f"""#!/bin/sh
        case "$*" in *pack-objects*) touch {started}; exec sleep 1000;; esac
        exec {shutil.which("git")} "$@"
        """
    )
    git.chmod(0o755)
    api, running = client(), worker(PATH=f"{git.parent}:{os.environ['PATH']}")
    wait_until(lambda: api.get("/api/_internal/push").json["remotes"]["origin"]["state"] == "idle")
    pipeline = build(env, publisher=True)
    pipeline.celery.send_task("maintain", queue=pipeline.queue)
    wait_until(started.exists, what="a packing in the middle")
    [packing] = wait_until(lambda: [each for each in running.children() if each.name() == "sleep"])

    assert running.stop() == 0
    wait_until(lambda: not packing.is_running(), what="the end of the packing")
    assert running.logged("interrupted: the worker ends")
    assert pipeline.maintenance.run().startswith("packed in ")


@pytest.mark.parametrize("held_push", ["on", "off"], ids=["express", "git"], indirect=True)
def test_a_worker_killed_in_mid_push_is_succeeded_by_the_next_start(held_push, remote):
    """
    The push that lost its worker is ended before a new one starts: never two at a time.
    """
    running, commit, go_on = held_push
    running.kill()
    running.log_path.write_text("")
    running.spawn()
    running.await_event("push.orphan_ended")
    go_on.touch()

    wait_until(lambda: remote.head() == commit, what="the commit on the remote")
    assert running.stop() == 0


def test_a_countdown_survives_a_restart(env, client, worker, remote, tmp_path):
    """
    A worker that stops while a retry waits: the next one attempts at its start, and once more when it is due.
    """
    env |= {"CFP_PUSH_BACKOFF_BASE": "2", "CFP_PUSH_BACKOFF_CAP": "2"}
    away = remote.path.rename(tmp_path / "away.git")
    api, running = client(), worker()
    commit = api.post("/api/sheets/people/records", json={"slug": "jane", "name": "Jane"}).json["commit"][
        "hash"
    ]
    running.await_event("push.retry_scheduled", count=2)
    assert running.stop() == 0

    again = worker()
    again.await_event("push.failed", count=2)
    away.rename(remote.path)
    wait_until(lambda: remote.head() == commit, what="the commit on the remote")


def test_requests_in_flight_finish_when_the_api_stops(env, data, tmp_path):
    """
    Writers go on until the listener closes; whoever got an answer has a commit, and nobody's was cut off.
    """
    port = free_port()
    command = [
        sys.executable,
        "-m",
        "gunicorn",
        "--bind",
        f"127.0.0.1:{port}",
        "--workers",
        "2",
        "--threads",
        "4",
    ]
    api = Process([*command, "ferry.app:create_app(open_access=True)"], env, tmp_path / "api.log")
    api.spawn()
    url = f"http://127.0.0.1:{port}/api/sheets/people/records"
    wait_until(lambda: _answers(url), what="the API")
    told, cut_off = [], []

    def write(name):
        for number in range(1000):
            body = json.dumps({"slug": f"{name}-{number}", "name": name}).encode()
            try:
                with urllib.request.urlopen(_json(url, body), timeout=60) as response:
                    told.append(json.load(response)["commit"]["hash"])
            except urllib.error.URLError:
                return  # refused: the listener is closed, as it should be
            except OSError as exc:
                cut_off.append(exc)
                return

    writers = [threading.Thread(target=write, args=(f"w{number}",)) for number in range(4)]
    for writer in writers:
        writer.start()
    wait_until(lambda: len(told) > 20, what="writes under way")
    api.signal(signal.SIGTERM)
    assert api.wait() == 0
    for writer in writers:
        writer.join(20)

    assert set(told) <= set(data.git("rev-list", "main").split())


def _answers(url):
    try:
        with urllib.request.urlopen(url, timeout=1):
            return True
    except OSError:
        return False


def _listens(process, number):
    """
    Whether *process* handles a signal by now, and is not ended by it.
    """
    caught = re.search(r"^SigCgt:\s+(\w+)$", Path(f"/proc/{process.pid}/status").read_text(), re.M)
    return int(caught[1], 16) >> (number - 1) & 1


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
def test_beat_ends_with_status_0_at_any_moment(beat, own_valkey, number):
    """
    From the first one at which it knows that it is beat, at work, and while it waits for a broker.
    """
    os.kill(own_valkey.pid, signal.SIGSTOP)
    hung = {"CFP_REDIS_URL": f"redis://127.0.0.1:{own_valkey.port}/0"}
    processes = first, second, third, _ = [beat(), beat(), beat(), beat(**hung)]
    wait_until(lambda: _listens(first, signal.SIGTERM), what="beat, listening")
    first.signal(number)
    wait_until(lambda: second.logged("beat: Starting"), what="beat about to begin")
    second.signal(number)
    wait_until(lambda: third.logged("Sending due task sweep"), what="beat at work")
    for process in processes[2:]:
        process.signal(number)
    assert [process.wait() for process in processes] == [0, 0, 0, 0]
    for process in processes:
        with pytest.raises(ProcessLookupError):  # of its whole group nobody is left
            os.killpg(process.pid, 0)


def _json(url, body):
    return urllib.request.Request(url, data=body, headers={"Content-Type": "application/json"})
