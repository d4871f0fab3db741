"""
Pushing over real ssh: a deploy key, a host key that is known, and both wrong.
"""

from __future__ import annotations

import getpass
import os
import shutil
import subprocess
import tempfile
from dataclasses import dataclass, replace
from pathlib import Path

import psutil
import pytest

from app.dev import accepts, free_port
from tests.parts import Bare, wait_until

SSHD = shutil.which("sshd") or shutil.which("sshd", path="/usr/sbin:/usr/local/sbin")

pytestmark = pytest.mark.skipif(
    SSHD is None and not os.environ.get("CI"),
    reason="needs sshd, which PyPI does not carry: apt install openssh-server",
)


@dataclass(frozen=True)
class Server:
    port: int
    directory: Path
    pid: int = 0

    @property
    def key(self):
        return self.directory / "deploy-key"

    @property
    def known_hosts(self):
        return self.directory / "known_hosts"

    def logins(self):
        return (self.directory / "log").read_text().count("Accepted publickey")

    def url(self, bare):
        return f"ssh://{getpass.getuser()}@127.0.0.1:{self.port}{bare.path}"


def _make_key(path):
    subprocess.run(["ssh-keygen", "-q", "-t", "ed25519", "-N", "", "-C", "", "-f", str(path)], check=True)
    return path.with_suffix(".pub").read_text()


@pytest.fixture
def server(tmp_path):
    """
    An sshd of our own, on loopback, that takes one key and nothing else.
    """
    directory = tmp_path / "ssh files"  # a blank in the path, as people have them
    directory.mkdir(mode=0o700)
    host_key = _make_key(directory / "host-key")
    (directory / "authorized_keys").write_text(_make_key(directory / "deploy-key"))
    running = Server(free_port(), directory)
    running.known_hosts.write_text(f"[127.0.0.1]:{running.port} {host_key}")
    config = directory / "sshd_config"
    config.write_text(
        f'HostKey "{directory}/host-key"\nAuthorizedKeysFile "{directory}/authorized_keys"\nPidFile none\n'
        "ListenAddress 127.0.0.1\nStrictModes no\nUsePAM no\nPasswordAuthentication no\n"
        "KbdInteractiveAuthentication no\nPermitRootLogin prohibit-password\nLogLevel VERBOSE\n"
    )
    if os.geteuid() == 0:
        Path("/run/sshd").mkdir(exist_ok=True)  # where sshd drops its privileges
    with (directory / "log").open("wb") as log:
        process = subprocess.Popen([SSHD, "-D", "-e", "-f", str(config), "-p", str(running.port)], stderr=log)
    try:
        wait_until(lambda: accepts(running.port), what="sshd")
        yield replace(running, pid=process.pid)
    finally:
        process.terminate()
        process.wait(10)


@pytest.fixture
def env(env, server, remote):
    with tempfile.TemporaryDirectory(prefix="f") as short:  # a socket's path has no room for pytest's
        yield {
            **env,
            "TMPDIR": short,
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
    server.known_hosts.write_text(f"[127.0.0.1]:{server.port} {_make_key(server.directory / 'another')}")
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
    env["CFP_PUSH_TIMEOUT"] = "2"
    api, running = client(), worker()
    first = _write(api, "ann")
    wait_until(lambda: remote.head() == first, what="the first commit on the remote")
    serving = psutil.Process(server.pid).children(recursive=True)
    for process in serving:
        process.suspend()

    commit = _write(api, "bob")
    assert running.await_event("push.failed")["reason"] == "timeout"
    wait_until(lambda: remote.head() == commit, what="the commit on the remote")
    assert len(running.events("push.failed")) == 1
    assert server.logins() == 2
    for process in serving:
        process.kill()


def test_a_key_that_others_may_read_works_all_the_same(client, worker, server, remote):
    """
    A Kubernetes secret is mounted so; ssh alone would refuse it.
    """
    server.key.chmod(0o644)
    api = client()
    worker()
    commit = _write(api)
    wait_until(lambda: remote.head() == commit, what="the commit on the remote")
