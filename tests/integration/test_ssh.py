"""
Pushing over real ssh: a deploy key, a host key that is known, and both wrong.
"""

from __future__ import annotations

import psutil
import pytest

from tests.parts import Bare, wait_until
from tests.ssh_server import IS_MISSING, REASON, make_key, ssh_server

pytestmark = pytest.mark.skipif(IS_MISSING, reason=REASON)


@pytest.fixture
def server(tmp_path):
    with ssh_server(tmp_path) as running:
        yield running


@pytest.fixture
def env(env, server, remote, short_directory):
    return {
        **env,
        "TMPDIR": str(short_directory),
        "CFP_DATA_REMOTE": server.url(remote),
        "CFP_SSH_KEY_PATH": str(server.key),
        "CFP_SSH_KNOWN_HOSTS": str(server.known_hosts),
    }


def _write(api, slug="jane"):
    answer = api.post("/api/sheets/people/records", json={"slug": slug, "name": "Jane"})
    return answer.json["commit"]["hash"]


def test_a_commit_arrives_over_ssh(client, worker, remote):
    api = client()
    worker()
    commit = _write(api)
    wait_until(lambda: remote.head() == commit, what="the commit on the remote")


def test_a_host_key_that_is_not_known_is_refused_and_never_learnt(client, worker, server, remote, sentry):
    server.known_hosts.write_text(f"[127.0.0.1]:{server.port} {make_key(server.directory / 'another')}")
    before = server.known_hosts.read_text()
    client()
    running = worker(SENTRY_DSN=sentry.dsn)

    assert running.await_event("push.failed")["reason"] == "host-key"
    wait_until(lambda: sentry.events, what="the page")
    assert remote.head() is None
    assert server.known_hosts.read_text() == before


def test_a_key_that_is_not_accepted_heals_when_it_is(client, worker, server, remote):
    """
    The right is given later: the next attempt uses it, with no restart.
    """
    accepted = (server.directory / "authorized_keys").read_text()
    (server.directory / "authorized_keys").write_text("")
    api, running = client(), worker()
    commit = _write(api)
    assert running.await_event("push.failed")["reason"] == "auth"

    (server.directory / "authorized_keys").write_text(accepted)
    wait_until(lambda: remote.head() == commit, what="the commit on the remote")


def test_a_repository_that_is_not_there_is_named(client, worker, server, env, tmp_path):
    env["CFP_DATA_REMOTE"] = server.url(Bare(tmp_path / "nowhere.git"))
    client()
    assert worker().await_event("push.failed")["reason"] == "not-found"


def _ssh_processes(env):
    """
    Return the ssh processes that share a connection of this deployment's.
    """
    place = f"{env['TMPDIR']}/ferry-"
    return [process for process in psutil.process_iter(["cmdline"]) if place in str(process.info["cmdline"])]


def test_pushes_share_one_connection_which_ends_with_the_worker(client, worker, server, remote, env):
    api, running = client(), worker()
    for slug in ("ann", "bob", "cyd"):
        commit = _write(api, slug)
        wait_until(lambda: remote.head() == commit, what="the commit on the remote")  # noqa: B023
    assert server.logins() == 1

    running.stop()
    wait_until(lambda: not _ssh_processes(env), what="the end of the shared connection")


def test_a_shared_connection_that_freezes_hangs_one_push_and_no_other(client, worker, server, remote, env):
    env["CFP_PUSH_TIMEOUT"] = "10"  # enough for a push over a new connection, on a busy machine
    api, running = client(), worker()
    for slug in ("ann", "eve"):  # git may make the first push, and no talk stands ready after it
        last = _write(api, slug)
        # That it is on the remote is not enough: the push that brought it would freeze too, while it ends.
        wait_until(lambda: last in {done["commit"] for done in running.events("push.done")}, what="the push")  # noqa: B023
    # Nor while the talk for the next push begins, which would then log in by itself.
    wait_until(lambda: any(map(_receives, _serving(server))), what="a talk that stands ready")
    serving = _serving(server)
    for process in serving:
        process.suspend()

    commit = _write(api, "bob")
    assert running.await_event("push.failed")["reason"] == "timeout"
    wait_until(lambda: remote.head() == commit, what="the commit on the remote")
    assert len(running.events("push.failed")) == 1
    assert server.logins() == 2
    for process in serving:
        process.kill()


def _serving(server):
    return psutil.Process(server.pid).children(recursive=True)


def _receives(process):
    try:
        return "receive-pack" in " ".join(process.cmdline())
    except psutil.NoSuchProcess:
        return False


def test_a_key_that_others_may_read_works_all_the_same(client, worker, server, remote):
    """
    A Kubernetes secret is mounted so; ssh alone would refuse it.
    """
    server.key.chmod(0o644)
    api = client()
    worker()
    commit = _write(api)
    wait_until(lambda: remote.head() == commit, what="the commit on the remote")
