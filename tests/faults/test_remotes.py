"""
What a remote may do to a push: hang in every way, answer wrongly, or not at all.
"""

from __future__ import annotations

import contextlib
import os
import re
import socket
import stat
import threading
import time
import zlib

import psutil
import pytest

from tests.parts import Bare, wait_until


def _write(api, number=0):
    slug = f"visitor-{number}"
    return api.post("/api/sheets/people/records", json={"slug": slug, "name": slug}).json["commit"]["hash"]


def _status(api, remote="origin"):
    return api.get("/api/_internal/push").json["remotes"][remote]


@pytest.fixture
def env(env):
    return {**env, "CFP_PUSH_TIMEOUT": "2", "CFP_PUSH_BACKOFF_CAP": "0.5"}


@pytest.fixture
def silent_port():
    """
    A port whose server accepts and never says a word.
    """
    with socket.create_server(("127.0.0.1", 0), backlog=50) as server:
        held = []

        def accept():
            while True:
                try:
                    held.append(server.accept())
                except OSError:
                    return

        threading.Thread(target=accept, daemon=True).start()
        yield server.getsockname()[1]
        server.shutdown(socket.SHUT_RDWR)
        for connection, _ in held:
            connection.close()


def _leftovers(running, marker):
    """
    Return what a worker's push left behind: zombies of its own, and whatever names *marker*.

    A program on the other side of a talk that stands ready for the next push is none: it runs nothing.
    """
    found = []
    for child in running.children():
        with contextlib.suppress(psutil.NoSuchProcess):  # it ended while we looked
            if child.status() == psutil.STATUS_ZOMBIE:
                found.append(child)
    ready = []
    for process in psutil.process_iter():
        try:
            command = process.cmdline()
            if process.pid == os.getpid() or marker not in " ".join(command):
                continue
            waits = "receive-pack" in command and not process.children()
            (ready if waits else found).append(process)
        except psutil.Error:
            continue
    return found + ready[1:]


def _nap(tmp_path):
    """
    A command of this test alone: what others left is none of its business.
    """
    return f"sleep {1000 + zlib.crc32(bytes(tmp_path)) % 10**6}"


def _hanging_ssh(tmp_path):
    """
    An ssh that never authenticates, has a child of its own, and does not care for SIGTERM.
    """
    ssh = tmp_path / "hanging-ssh"
    ssh.write_text(f"#!/bin/sh\ntrap '' TERM\n{_nap(tmp_path)} &\nwhile :; do sleep 0.1; done\n")
    ssh.chmod(ssh.stat().st_mode | stat.S_IEXEC)
    return str(ssh)


@pytest.mark.parametrize(
    "kind", ["silent-http", "silent-git", "ssh", "hook", "hook-of-git", "http-hang", "http-trickle"]
)
def test_a_hung_push_is_ended_with_every_child_and_the_next_attempt_works(
    kind, env, client, worker, data, remote, http_remote, silent_port, tmp_path
):
    """
    It is reported as a timeout and retried; no process is left, other remotes are
    pushed meanwhile, and once the remote behaves the commit arrives.
    """
    web = Bare(http_remote.root / "web.git")
    bad, arrived_at = str(remote.path), remote
    marker = str(remote.path)
    if kind == "silent-http":
        bad = f"http://127.0.0.1:{silent_port}/web.git"
        marker = str(silent_port)
    elif kind == "silent-git":
        bad = f"git://127.0.0.1:{silent_port}/web.git"
        marker = str(silent_port)
    elif kind == "ssh":
        bad, marker = "ssh://git@ferry.invalid/web.git", str(tmp_path / "hanging-ssh")
        env["GIT_SSH_COMMAND"] = _hanging_ssh(tmp_path)
    elif kind.startswith("hook"):
        env["CFP_PUSH_EXPRESS"] = "off" if kind == "hook-of-git" else "on"
        data.git("push", "--quiet", str(remote.path), "main")
        data.git("update-ref", "refs/remotes/origin/main", "main")
        remote.hook("pre-receive", _nap(tmp_path))
    else:
        bad, marker, arrived_at = http_remote.url("web.git"), http_remote.url("web.git"), web
        http_remote.fault = kind.removeprefix("http-")
    mirror = Bare.init(tmp_path / "mirror.git")
    env |= {"CFP_DATA_REMOTE": bad, "CFP_DATA_MIRRORS": f"backup={mirror.path}"}
    api, running = client(), worker()

    commit = _write(api)
    wait_until(lambda: mirror.head() == commit, what="the commit on the other remote")
    failed = running.await_event("push.failed")
    assert failed["remote"] == "origin"
    assert failed["reason"] == "timeout"
    wait_until(lambda: _status(api)["state"] == "retrying" or None, what="a retry")
    if kind == "ssh":
        return  # nothing answers at that address ever

    if kind.startswith("silent"):
        return
    http_remote.fault = None
    (remote.path / "hooks/pre-receive").unlink(missing_ok=True)
    wait_until(lambda: arrived_at.head() == commit, what="the commit, when the remote behaves")
    for name in (marker, _nap(tmp_path)):
        wait_until(lambda name=name: not _leftovers(running, name), what="no process to be left")


def test_no_process_is_left_of_a_push_that_ignores_sigterm(env, client, worker, tmp_path):
    """
    git's own child keeps a child of its own: all of the session ends, by SIGKILL where it must.
    """
    env |= {"CFP_DATA_REMOTE": "ssh://git@ferry.invalid/web.git", "GIT_SSH_COMMAND": _hanging_ssh(tmp_path)}
    env["CFP_PUSH_BACKOFF_BASE"] = env["CFP_PUSH_BACKOFF_CAP"] = "60"
    client()
    running = worker()

    running.await_event("push.retry_scheduled")

    # The worker's start may still ask the remote; that ends in the same way.
    wait_until(
        lambda: (
            not (
                _leftovers(running, str(tmp_path / "hanging-ssh"))
                or _leftovers(running, _nap(tmp_path))
                or [child for child in running.children() if "git" in child.name()]
            )
        ),
        timeout_s=60,
        what="the end of all processes",
    )


@pytest.mark.parametrize("fault", ["drop-reply", "truncate-reply", "502-after"])
def test_a_push_that_landed_though_git_says_it_failed_is_a_success(fault, env, client, worker, http_remote):
    """
    The remote is asked, and the success is counted apart; nothing is pushed twice.
    """
    web = Bare(http_remote.root / "web.git")
    env |= {"CFP_DATA_REMOTE": http_remote.url("web.git"), "CFP_PUSH_TIMEOUT": "10"}
    api, running = client(), worker()
    wait_until(lambda: _status(api)["state"] == "idle")
    http_remote.fault = fault
    pushes = http_remote.pushes

    commit = _write(api)
    done = running.await_event("push.done", count=2)

    assert (done["commit"], done["outcome"]) == (commit, "landed_but_reported_failed")
    assert web.head() == commit
    assert http_remote.pushes == pushes + 1
    assert not running.events("push.failed")
    # The event comes before the ledger's entry. A worker that starts late on a busy machine has stalled, too.
    both = {"landed_but_reported_failed": 1, "pushed": 1}
    wait_until(lambda: both.items() <= _status(api)["outcomes"].items(), what="both outcomes")
    assert _status(api)["state"] == "idle"
    metric = r'ferry_push_attempts_total\{outcome="landed_but_reported_failed",remote="origin",[^}]*\} 1\.0'
    assert re.search(metric, api.get("/metrics").text)


@pytest.mark.parametrize("express", ["on", "off"])
def test_our_own_timeout_is_doubted_too(env, client, worker, remote, express):
    """
    A hook that hangs after the ref was moved: the push is ended, and has landed.
    """
    env["CFP_PUSH_EXPRESS"] = express
    api, running = client(), worker()
    wait_until(lambda: _status(api)["state"] == "idle")
    remote.hook("post-receive", "sleep 1002")

    commit = _write(api)
    done = running.await_event("push.done", count=2)

    assert (done["commit"], done["outcome"]) == (commit, "landed_but_reported_failed")
    assert not _leftovers(running, "sleep 1002")


def test_a_lock_that_a_dead_git_left_on_the_tracking_ref_stops_nothing(env, client, worker, data, remote):
    """
    What is remembered of a remote is a cache: what holds its lock for a second is dead, or will be content.
    """
    api, running = client(), worker()
    wait_until(lambda: _status(api)["state"] == "idle")
    (data.path / "refs/remotes/origin/main.lock").touch()

    commit = _write(api)
    wait_until(lambda: _status(api)["state"] == "idle", what="an idle remote")

    assert remote.head() == commit == _status(api)["remote_head"]
    assert not running.events("push.failed")
    assert _status(api)["last_error"] is None


def test_pushes_are_spaced_but_the_first_after_a_pause_is_not_delayed(env, client, worker, remote):
    """
    CFP_PUSH_MIN_INTERVAL: under load one push per interval, and the last commit waits no longer than that.
    """
    interval_s = 3.0
    env["CFP_PUSH_MIN_INTERVAL"] = str(interval_s)
    api, running = client(), worker()
    wait_until(lambda: _status(api)["state"] == "idle")
    time.sleep(interval_s)

    first = _write(api)
    wait_until(lambda: remote.has(first), what="the first commit")
    assert not running.logged("retry: Retry in"), "it was put off"
    last = [_write(api, number) for number in range(1, 11)][-1]
    wait_until(lambda: remote.has(last), what="the last commit")
    [waited] = re.findall(r"retry: Retry in ([\d.]+)s", running.text())
    assert float(waited) <= interval_s

    running.await_event("push.done", count=3)
    starts = running.events("push.done")
    assert len(starts) == 3
    assert starts[-1]["commits"] == 10
    assert running.text().count("retry: Retry in") == 1
